import { rm } from "node:fs/promises";
import { join } from "node:path";
import { killProcessesOf } from "#host/kill-by-path.ts";
import { isWorkerAlive } from "#host/worker-lock.ts";
import { removeLeftOverNetworks } from "#network/host-network.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { type JournalEntry, machineDirectory, readEntries, removeEntry } from "./journal.ts";

/**
 * Removes what killed workers left behind: processes, directories, namespaces, slots. Machines of workers that live
 * are not touched. Every step can be run again. Returns the sandboxes that are gone now.
 */
export async function recoverSandboxes(dataDirectory: string, root: boolean): Promise<readonly SandboxId[]> {
  const orphans: JournalEntry[] = [];
  for (const entry of await readEntries(dataDirectory)) {
    if (isWorkerAlive(workersDirectory(dataDirectory), entry.workerId)) continue;
    orphans.push(entry);
    const directory = machineDirectory(dataDirectory, entry.id);
    // The process first: nothing that it uses may be given to another one before.
    await killProcessesOf(directory);
    await rm(directory, { recursive: true, force: true });
  }
  if (root) await removeLeftOverNetworks();
  // The entry last: until here a crash of this process leads to the same steps again.
  for (const { id } of orphans) await removeEntry(dataDirectory, id);
  return orphans.map(({ id }) => id);
}

export function workersDirectory(dataDirectory: string): string {
  return join(dataDirectory, "workers");
}
