import { existsSync, mkdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { lockFile } from "../file-lock.ts";

// The makers of immutable directories exclude each other by a lock for each name, in `locks` beside the directories.
// Users of a directory share its lock, and the collector takes it alone: it never removes a directory in use.

/** The lock of an immutable directory, by the directory's path. */
export function directoryLockOf(directory: string): string {
  return join(dirname(directory), "locks", basename(directory));
}

/**
 * Keeps the directory from the collector until it is disposed. Hold it from the search for the directory until its
 * files have links elsewhere.
 * @returns undefined when the directory is gone
 * @throws `canceled` when the signal ends the wait
 */
export async function holdDirectory(directory: string, signal?: AbortSignal): Promise<Disposable | undefined> {
  const lock = await shareLock(directoryLockOf(directory), signal);
  if (existsSync(directory)) return lock;
  lock[Symbol.dispose]();
  return undefined;
}

/** Holds several directories. @returns undefined when one of them is gone; then none is held */
export async function holdDirectories(
  directories: readonly string[],
  signal?: AbortSignal,
): Promise<Disposable | undefined> {
  using held = new DisposableStack();
  for (const directory of directories) {
    const hold = await holdDirectory(directory, signal);
    if (hold === undefined) return undefined;
    held.use(hold);
  }
  return held.move();
}

async function shareLock(path: string, signal: AbortSignal | undefined): Promise<Disposable> {
  try {
    if (!existsSync(dirname(path))) mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    return await lockFile(path, { wait: true, kind: "shared" }, signal);
  } catch (error) {
    // A cache that this user may only read: its collector runs as another user, and goes by the last use.
    if (isSandboxError(error, "canceled") || !isDenied(error)) throw error;
    return { [Symbol.dispose]: () => undefined };
  }
}

function isDenied(error: unknown): boolean {
  const { code, cause } = error as NodeJS.ErrnoException;
  const denied = ["EACCES", "EPERM", "EROFS"];
  return denied.includes(code ?? "") || denied.includes((cause as NodeJS.ErrnoException | undefined)?.code ?? "");
}
