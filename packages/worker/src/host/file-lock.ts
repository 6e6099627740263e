import { closeSync, fstatSync, openSync, rmSync, statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { tryFlock } from "./kernel/libc.ts";

// A blocking flock would stop the event loop, so waiting polls. Holders keep these locks for seconds to minutes.
const pollMs = 50;

export interface LockOptions {
  readonly wait: boolean;
  /** A shared lock has any number of holders and excludes exclusive ones. Default: exclusive. */
  readonly kind?: Kind;
}

/**
 * Takes the lock on the file `path`, which is created when it is missing. Releasing the lock keeps the file; a holder of
 * the exclusive lock may remove it by {@link removeLockFile}. The kernel releases the lock when the process ends. Two
 * callers in one process exclude each other too.
 *
 * @returns the lock, or undefined when `wait` is false and another holder has it
 * @throws `canceled` when the signal ends the wait; `unavailable` when the file cannot be opened
 */
export function lockFile(
  path: string,
  options: LockOptions & { readonly wait: true },
  signal?: AbortSignal,
): Promise<Disposable>;
export function lockFile(path: string, options: LockOptions, signal?: AbortSignal): Promise<Disposable | undefined>;
export async function lockFile(
  path: string,
  { wait, kind = "exclusive" }: LockOptions,
  signal?: AbortSignal,
): Promise<Disposable | undefined> {
  let fd = tryLock(path, kind);
  while (fd === undefined) {
    if (!wait) return undefined;
    try {
      await delay(pollMs, undefined, signal === undefined ? {} : { signal });
    } catch (cause) {
      throw new SandboxError("canceled", `waiting for the lock ${path}: canceled`, { cause });
    }
    fd = tryLock(path, kind);
  }
  const locked = fd;
  let held = true;
  return {
    [Symbol.dispose]: () => {
      if (held) closeSync(locked);
      held = false;
    },
  };
}

/** Removes the file of a lock that the caller holds exclusively. Others that wait for it lock a new file. */
export function removeLockFile(path: string): void {
  rmSync(path, { force: true });
}

/** Whether a living process holds the lock of the file. False for a file that does not exist. */
export function isLocked(path: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch {
    return false;
  }
  try {
    return !tryFlock(fd);
  } finally {
    closeSync(fd);
  }
}

type Kind = "exclusive" | "shared";

/** The open, locked file; undefined when another holder prevents it. */
function tryLock(path: string, kind: Kind): number | undefined {
  for (;;) {
    const fd = open(path, kind);
    let isTaken = false;
    let isCurrent = false;
    try {
      isTaken = tryFlock(fd, kind);
      // A file that was removed since it was opened excludes nobody.
      isCurrent = isTaken && isFileAt(path, fd);
    } finally {
      if (!isCurrent) closeSync(fd);
    }
    if (isCurrent) return fd;
    if (!isTaken) return undefined;
  }
}

function isFileAt(path: string, fd: number): boolean {
  const present = statSync(path, { throwIfNoEntry: false });
  const locked = fstatSync(fd);
  return present?.ino === locked.ino && present.dev === locked.dev;
}

function open(path: string, kind: Kind): number {
  try {
    // A user that may only read the file can share its lock.
    if (kind === "shared" && statSync(path, { throwIfNoEntry: false }) !== undefined) return openSync(path, "r");
    return openSync(path, "a", 0o644);
  } catch (cause) {
    throw new SandboxError("unavailable", `cannot open the lock file ${path}: ${(cause as Error).message}`, {
      cause,
    });
  }
}
