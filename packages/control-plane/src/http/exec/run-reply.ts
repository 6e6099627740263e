import { Readable } from "node:stream";
import { exitCodeOf, type RunReply, timedOutText } from "@opensandbox/wire/public/guests/execs.ts";
import type { RunResult } from "#execs/run-command.ts";

/** The reply of a small result; undefined for one that has to be streamed. */
export function runReplyOf(result: RunResult): RunReply | undefined {
  const { end, stdout, stderr, truncated } = result;
  if (!(stdout instanceof Uint8Array) || !(stderr instanceof Uint8Array)) return undefined;
  return {
    exitCode: exitCodeOf(end),
    stdout: textOf(stdout),
    stderr: end.timedOut ? `${textOf(stderr)}${timedOutText}` : textOf(stderr),
    ...(truncated ? { truncated } : {}),
  };
}

/** Streams the JSON of a result of any size, after the fields of `head`, with back-pressure. */
export function runReplyStream(result: RunResult, head: object): Readable {
  return Readable.from(jsonOf(result, head), { objectMode: false });
}

async function* jsonOf({ end, stdout, stderr, truncated }: RunResult, head: object): AsyncGenerator<string> {
  const before = JSON.stringify({ ...head, exitCode: exitCodeOf(end), ...(truncated ? { truncated } : {}) });
  yield `${before.slice(0, -1)},"stdout":"`;
  yield* escaped(stdout);
  yield '","stderr":"';
  yield* escaped(stderr);
  if (end.timedOut) yield insideOfString(timedOutText);
  yield '"}';
}

async function* escaped(source: RunResult["stdout"]): AsyncGenerator<string> {
  // One decoder for all pieces, so that no character is cut between two.
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  for await (const piece of source instanceof Uint8Array ? [source] : source) {
    yield insideOfString(decoder.decode(piece, { stream: true }));
  }
  yield insideOfString(decoder.decode());
}

function insideOfString(text: string): string {
  return JSON.stringify(text).slice(1, -1);
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
}
