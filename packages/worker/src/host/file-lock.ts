import { closeSync, openSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { tryFlock } from "./kernel/libc.ts";

// A blocking flock would stop the event loop, so waiting polls. Holders keep these locks for seconds to minutes.
const pollMs = 50;

/**
 * Takes the exclusive lock on the file `path`, which is created when it is missing. Releasing the lock keeps the file:
 * removing it would let two holders lock two different files. The kernel releases the lock when the process ends. Two
 * callers in one process exclude each other too.
 *
 * @returns the lock, or undefined when `wait` is false and another holder has it
 * @throws `canceled` when the signal ends the wait; `unavailable` when the file cannot be opened
 */
export function lockFile(path: string, options: { readonly wait: true }, signal?: AbortSignal): Promise<Disposable>;
export function lockFile(
  path: string,
  options: { readonly wait: boolean },
  signal?: AbortSignal,
): Promise<Disposable | undefined>;
export async function lockFile(
  path: string,
  options: { readonly wait: boolean },
  signal?: AbortSignal,
): Promise<Disposable | undefined> {
  const fd = open(path);
  try {
    while (!tryFlock(fd)) {
      if (!options.wait) {
        closeSync(fd);
        return undefined;
      }
      await delay(pollMs, undefined, signal === undefined ? {} : { signal });
    }
  } catch (cause) {
    closeSync(fd);
    if (signal?.aborted !== true) throw cause;
    throw new SandboxError("canceled", `waiting for the lock ${path}: canceled`, { cause });
  }
  let held = true;
  return {
    [Symbol.dispose]: () => {
      if (held) closeSync(fd);
      held = false;
    },
  };
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

function open(path: string): number {
  try {
    return openSync(path, "a", 0o644);
  } catch (cause) {
    throw new SandboxError("unavailable", `cannot open the lock file ${path}: ${(cause as Error).message}`, {
      cause,
    });
  }
}
