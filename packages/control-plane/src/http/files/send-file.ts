import { Readable } from "node:stream";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { FileEntry } from "@opensandbox/wire/worker/files.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import type { FastifyReply, FastifyRequest } from "fastify";
import { type Part, partOf } from "./byte-range.ts";

/** Sends a file, or the requested part. Settles when it has been sent or the client has left. */
export async function sendFile(
  worker: Worker,
  { id, path }: { readonly id: SandboxId; readonly path: string },
  { request, reply }: { readonly request: FastifyRequest; readonly reply: FastifyReply },
  signal: AbortSignal,
): Promise<void> {
  const part = await wantedPart(worker, { id, path }, request, signal);
  if (part === "unsatisfiable") {
    const { size } = await statFile(worker, { id, path }, signal);
    const message = `${path} has ${size} bytes: the range starts beyond its end`;
    await reply
      .status(416)
      .header("content-range", `bytes */${size}`)
      .send({ error: message, code: "invalid_argument" });
    return;
  }
  const { entry, size, content } = await openFile(worker, { id, path, part }, signal);
  reply.headers(fileHeaders(entry)).type("application/octet-stream");
  if (size !== undefined) reply.header("content-length", size);
  if (part !== undefined) reply.status(206).header("content-range", `bytes ${part.first}-${part.last}/${entry.size}`);
  const stream = Readable.from(content, { objectMode: false });
  const { promise, resolve } = Promise.withResolvers<void>();
  stream.once("close", resolve);
  reply.send(stream);
  await promise;
}

/** The entry of the file at a path, through symbolic links. @throws for a directory */
export async function statFile(
  worker: Worker,
  { id, path }: { readonly id: SandboxId; readonly path: string },
  signal: AbortSignal,
): Promise<FileEntry> {
  const entry = await worker.guest(id).files.stat(path, {}, signal);
  if (entry.kind === "directory") throw isDirectory(path);
  return entry;
}

/** Headers that describe a file. */
export function fileHeaders(entry: FileEntry): Record<string, string> {
  return { "accept-ranges": "bytes", "last-modified": new Date(entry.modifiedMs).toUTCString() };
}

async function wantedPart(
  worker: Worker,
  file: { readonly id: SandboxId; readonly path: string },
  { headers }: FastifyRequest,
  signal: AbortSignal,
): Promise<Part | "unsatisfiable" | undefined> {
  // If-Range asks for a part of a certain version. Files have no versions here, so the whole file is sent.
  if (headers.range === undefined || headers["if-range"] !== undefined) return undefined;
  const { size } = await statFile(worker, file, signal);
  return partOf(headers.range, size);
}

/** Opens a file and waits for its first bytes, so that a failure until then still gets its own status. */
async function openFile(
  worker: Worker,
  { id, path, part }: { id: SandboxId; path: string; part: Part | undefined },
  signal: AbortSignal,
): Promise<{ entry: FileEntry; size: number | undefined; content: AsyncIterable<Uint8Array> }> {
  const enough = new AbortController();
  const range = part === undefined ? {} : { offset: part.first, length: part.last - part.first + 1 };
  const { entry, content } = await worker.guest(id).files.read(path, range, AbortSignal.any([signal, enough.signal]));
  try {
    if (entry.kind === "directory") throw isDirectory(path);
    const chunks = content[Symbol.asyncIterator]();
    const first = await chunks.next();
    // Files of /proc report a size of 0 although they have content.
    const size = range.length ?? (entry.size === 0 && !first.done ? undefined : entry.size);
    return { entry, size, content: wholeFile(first, chunks, { size, path, enough }) };
  } catch (error) {
    enough.abort();
    throw error;
  }
}

/** Exactly `size` bytes, or an error that cuts the connection: the file may change while it is read. */
async function* wholeFile(
  first: IteratorResult<Uint8Array>,
  chunks: AsyncIterator<Uint8Array>,
  {
    size = Number.POSITIVE_INFINITY,
    path,
    enough,
  }: { size: number | undefined; path: string; enough: AbortController },
): AsyncGenerator<Uint8Array> {
  try {
    let sent = 0;
    for (let next = first; !next.done && sent < size;) {
      const chunk = next.value.subarray(0, size - sent);
      sent += chunk.length;
      if (chunk.length > 0) yield chunk;
      // The answer is complete then, whatever the guest does next. Its connection may carry another request already.
      if (sent < size) next = await chunks.next();
    }
    if (Number.isFinite(size) && sent < size) {
      throw new SandboxError("unavailable", `${path} was truncated while it was read`);
    }
  } finally {
    enough.abort();
  }
}

function isDirectory(path: string): SandboxError {
  return new SandboxError("invalid_argument", `${path} is a directory: list it with .../files/list`);
}
