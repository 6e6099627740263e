import { once } from "node:events";
import type { Writable } from "node:stream";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * Writes, and returns when there is room for more.
 * @throws `unavailable` when nothing can be written any more; see {@link isReaderGone}
 */
export async function writeTo(stream: Writable, data: string | Uint8Array, signal?: AbortSignal): Promise<void> {
  if (stream.errored !== null) throw writeError(stream.errored);
  if (stream.destroyed || data.length === 0) return;
  if (stream.write(data)) return;
  try {
    await once(stream, "drain", signal === undefined ? {} : { signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw writeError(error);
  }
}

/** Resolves when all that was written is with the system. */
export async function flushed(stream: Writable): Promise<void> {
  if (stream.errored !== null || stream.destroyed || stream.writableLength === 0) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  stream.write("", () => resolve());
  await promise;
}

/** True for the error of writing to a pipe that nobody reads from, such as that to a `head` which has ended. */
export function isReaderGone(error: unknown): boolean {
  const cause = error instanceof SandboxError ? error.cause : error;
  return cause instanceof Error && "code" in cause && (cause.code === "EPIPE" || cause.code === "ERR_STREAM_DESTROYED");
}

function writeError(cause: unknown): SandboxError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new SandboxError("unavailable", `cannot write the output: ${reason}`, undefined, { cause });
}
