import { closeSync, openSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { isLocked } from "./file-lock.ts";
import { tryFlock } from "./kernel/libc.ts";
import { namesIn } from "./storage/names-in.ts";

/**
 * Marks the worker `id` as alive, by a lock that the kernel releases when the process ends. Disposing it ends the claim.
 */
export async function claimWorker(directory: string, id: string): Promise<AsyncDisposable> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const file = lockFileOf(directory, id);
  const fd = openSync(file, "w", 0o600);
  if (!tryFlock(fd)) {
    closeSync(fd);
    throw new SandboxError("unavailable", `worker ${id} is already running`);
  }
  return {
    async [Symbol.asyncDispose]() {
      await rm(file, { force: true });
      closeSync(fd);
    },
  };
}

/** Whether the process of that worker still runs. */
export function isWorkerAlive(directory: string, id: string): boolean {
  return isLocked(lockFileOf(directory, id));
}

/** The workers of a directory whose processes still run. */
export async function liveWorkers(directory: string): Promise<readonly string[]> {
  return (await namesIn(directory))
    .filter((name) => name.endsWith(lockSuffix))
    .map((name) => name.slice(0, -lockSuffix.length))
    .filter((id) => isWorkerAlive(directory, id));
}

/** Removes the locks of dead workers, except where `needed` says that machines are left to take over. */
export async function removeDeadWorkers(directory: string, needed: (id: string) => boolean): Promise<void> {
  for (const name of await namesIn(directory)) {
    const id = name.slice(0, -lockSuffix.length);
    if (!name.endsWith(lockSuffix) || needed(id) || isWorkerAlive(directory, id)) continue;
    await rm(join(directory, name), { force: true });
  }
}

const lockSuffix = ".lock";

function lockFileOf(directory: string, id: string): string {
  return join(directory, `${id}${lockSuffix}`);
}
