import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { lockFile } from "#host/file-lock.ts";
import { processesOf } from "#host/kill-by-path.ts";
import { hostFiles, replaceFile } from "#host/storage/durable-files.ts";
import { liveWorkers } from "#host/worker-lock.ts";
import { workersDirectory } from "#sandboxes/adopt-machines.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";

const markerFile = "restore-in-progress";

/**
 * Keeps servers from starting on a data directory whose content is being exchanged. A killed restore leaves the mark:
 * half of the directory may belong to each side until the restore is repeated.
 */
export async function markRestore(dataDirectory: string): Promise<{ clear(): Promise<void> }> {
  const marker = join(dataDirectory, markerFile);
  await replaceFile(marker, { content: `${process.pid}\n`, mode: 0o600 }, hostFiles);
  return {
    async clear() {
      // After a power cut the mark must not be gone before the renames are there.
      await hostFiles.flush(dataDirectory);
      await rm(marker, { force: true });
      await hostFiles.flush(dataDirectory);
    },
  };
}

/** @throws `unavailable` while another backup or restore of the directory runs */
export async function lockBackups(dataDirectory: string): Promise<Disposable> {
  const lock = await lockFile(join(dataDirectory, "backup.lock"), { wait: false });
  if (lock !== undefined) return lock;
  const message = `another backup or restore of ${dataDirectory} is running: try again when it has ended`;
  throw new SandboxError("unavailable", message);
}

/** @throws `unavailable` when a restore has not come to its end */
export function refuseDuringRestore(dataDirectory: string): void {
  if (!existsSync(join(dataDirectory, markerFile))) return;
  throw new SandboxError(
    "unavailable",
    `a restore of ${dataDirectory} has not ended: wait for it or, when it was interrupted, run 'osb admin restore' again`,
  );
}

/** @throws `unavailable` while a server or a machine uses the data directory */
export async function refuseInUse(dataDirectory: string): Promise<void> {
  const workers = await liveWorkers(workersDirectory(dataDirectory));
  if (workers.length > 0) {
    throw new SandboxError("unavailable", `a server runs on ${dataDirectory}: stop it before you restore`);
  }
  const pids = await processesOf(join(dataDirectory, "machines"));
  if (pids.length === 0) return;
  throw new SandboxError(
    "unavailable",
    `machines of an ended server still run in ${dataDirectory} (process ${pids.join(", ")}): start a server there and ` +
      "stop it, which hibernates them",
  );
}
