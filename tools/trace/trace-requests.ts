import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { spawnServer } from "../../tests/e2e/spawn-server.ts";

/** The calls that are traced, in the order in which they are made. */
export const requestNames = ["create", "exec", "hibernate", "wake"] as const;

/** A request writes its record for the audit after its reply. */
const afterReplyMs = 500;

export type RequestName = (typeof requestNames)[number];

export interface Entry {
  readonly file: string;
  /** The function through which the file was first entered. */
  readonly name: string;
  /** Whether the request itself entered the file. Otherwise a loop or another process did while the request ran. */
  readonly by: "request" | "loop";
}

/** Makes the calls on a server of its own. Returns the files that each enters, in the order of their first entries. */
export async function traceRequests(
  names: readonly RequestName[],
  env: Readonly<Record<string, string>>,
): Promise<ReadonlyMap<RequestName, readonly Entry[]>> {
  const directory = await mkdtemp(join(tmpdir(), "osb-trace-"));
  try {
    const preload = pathToFileURL(join(import.meta.dirname, "record-entries.ts"));
    preload.searchParams.set("to", directory);
    const spans = new Map<RequestName, Span>();
    {
      await using server = await spawnServer({ env, nodeOptions: ["--import", preload.href] });
      let id = "";
      const call = async (name: string, path: string, body: object): Promise<unknown> => {
        const response = await fetch(new URL(path, server.url), {
          method: "POST",
          headers: { "x-api-key": server.apiKey, "content-type": "application/json", "x-trace": name },
          body: JSON.stringify(body),
          signal: AbortSignal.timeout(600_000),
        });
        const text = await response.text();
        if (!response.ok) throw new Error(`Cannot trace ${name}: the server answered ${response.status}: ${text}`);
        return JSON.parse(text);
      };
      // The first sandbox makes the template, which is not a step of a create.
      await call("first", "/api/sandboxes", { templateID: "minimal" });
      await sleep(afterReplyMs);
      for (const name of names) {
        const from = process.hrtime.bigint();
        if (name === "create") {
          ({ sandboxID: id } = (await call(name, "/api/sandboxes", { templateID: "minimal" })) as {
            sandboxID: string;
          });
        } else {
          const [path, body] = name === "exec" ? ["exec/run", { cmd: "true" }] : [name, {}];
          await call(name, `/api/sandboxes/${id}/${path}`, body);
        }
        await sleep(afterReplyMs);
        spans.set(name, { from, to: process.hrtime.bigint() });
      }
    }
    const lines = await recordedLines(directory);
    return new Map([...spans].map(([name, span]) => [name, entriesOf(name, span, lines)]));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

interface Span {
  readonly from: bigint;
  readonly to: bigint;
}

interface Line {
  readonly at: bigint;
  readonly trace: string;
  readonly file: string;
  readonly name: string;
}

/** All processes and threads read the same clock, which gives their lines one order. */
async function recordedLines(directory: string): Promise<readonly Line[]> {
  const texts = await Promise.all((await readdir(directory)).map((name) => readFile(join(directory, name), "utf8")));
  const lines = texts.flatMap((text) => text.split("\n")).filter(Boolean);
  return lines
    .map((line) => {
      const [at = "0", trace = "", file = "", name = ""] = line.split(" ");
      return { at: BigInt(at), trace, file, name };
    })
    .toSorted((a, b) => Number(a.at - b.at));
}

/** A file counts from the request's own entry, even if a loop has entered it before. */
function entriesOf(trace: RequestName, { from, to }: Span, lines: readonly Line[]): readonly Entry[] {
  const within = lines.filter(({ at }) => from <= at && at <= to);
  const own = new Set(within.filter((line) => line.trace === trace).map(({ file }) => file));
  const entries = new Map<string, Entry>();
  for (const { trace: entering, file, name } of within) {
    const by = entering === trace ? "request" : "loop";
    if ((by === "request" || !own.has(file)) && !entries.has(file)) entries.set(file, { file, name, by });
  }
  return [...entries.values()];
}
