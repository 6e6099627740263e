import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { SandboxError } from "@opensandbox/wire/errors.ts";
import { parse, type Stream } from "@opensandbox/wire/guest/channel.ts";
import { invalidAnswer } from "./guest-client.ts";

/** Limits on the part of a guest's answer that this process holds. */
export interface Limits {
  readonly entries: number;
  /** Size of the encoded messages. */
  readonly bytes: number;
  /** The error of a guest that sends more; `limit` says which bound it crossed. */
  excess(limit: string): SandboxError;
}

/** Joins the entries of all messages up to the end of the stream, which is given up when they exceed `limits`. */
export async function collect<Desc extends DescMessage, Entry>(
  stream: Stream,
  schema: Desc,
  entriesOf: (message: MessageShape<Desc>) => readonly Entry[],
  limits: Limits,
): Promise<Entry[]> {
  const collected: Entry[] = [];
  let bytes = 0;
  for (;;) {
    const incoming = await stream.next();
    if (incoming.kind === "end") return collected;
    const message = incoming.kind === "message" ? parse(schema, incoming.payload) : undefined;
    if (message === undefined) throw invalidAnswer(stream);
    // An empty message counts too, because an endless series of them would otherwise reach no limit.
    bytes += Math.max(incoming.payload.length, 1);
    for (const entry of entriesOf(message)) collected.push(entry);
    const limit = exceeded({ entries: collected.length, bytes }, limits);
    if (limit === undefined) continue;
    const error = limits.excess(limit);
    stream.reset(error);
    throw error;
  }
}

/** Joins the data of a stream up to its end, which is given up after `limits.bytes`. */
export async function collectBytes(
  content: AsyncIterable<Uint8Array>,
  limits: Pick<Limits, "bytes" | "excess">,
): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of content) {
    bytes += part.length;
    if (bytes > limits.bytes) throw limits.excess(`${limits.bytes} bytes`);
    if (part.length > 0) parts.push(part);
  }
  return Buffer.concat(parts);
}

function exceeded(held: { readonly entries: number; readonly bytes: number }, limits: Limits): string | undefined {
  if (held.entries > limits.entries) return `more than ${limits.entries} entries`;
  return held.bytes > limits.bytes ? `more than ${limits.bytes / 2 ** 20} MiB` : undefined;
}
