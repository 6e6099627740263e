import type { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** A stream read by a person or a program. */
export type Output = Writable & { readonly isTTY?: boolean; readonly columns?: number };

/**
 * Writes. Resolves when the operating system has accepted everything.
 * @throws `unavailable` when the stream is closed, see {@link isReaderGone}; the signal's reason
 */
export async function writeTo(stream: Writable, data: string | Uint8Array, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = (): void => reject(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  stream.write(data, (cause) => {
    if (cause) reject(new SandboxError("unavailable", `cannot write the output: ${cause.message}`, { cause }));
    else resolve();
  });
  try {
    await promise;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/** Resolves when the operating system has accepted earlier writes, at the latest after `milliseconds`. */
export async function flushed(stream: Writable, milliseconds: number): Promise<void> {
  if (stream.writableLength === 0) return;
  await Promise.race([writeTo(stream, "").catch(() => undefined), sleep(milliseconds, undefined, { ref: false })]);
}

/** Whether a write failed because the reader of the pipe is gone, such as a `head` that has exited. */
export function isReaderGone(error: unknown): boolean {
  const cause = error instanceof SandboxError ? error.cause : error;
  return cause instanceof Error && "code" in cause && (cause.code === "EPIPE" || cause.code === "ERR_STREAM_DESTROYED");
}
