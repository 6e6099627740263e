import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { SandboxId } from "@opensandbox/wire/ids.ts";

/**
 * What a worker is about to do for a sandbox, on disk before the first side effect. The entry's id names everything
 * that comes after it, so that the next start can find and remove what a killed worker left.
 */
export interface JournalEntry {
  readonly id: SandboxId;
  readonly generation: number;
  readonly workerId: string;
}

/** Where the machine of a sandbox keeps its files. */
export function machineDirectory(dataDirectory: string, id: string): string {
  return join(dataDirectory, "machines", id);
}

/** Settles when the entry would survive a crash of the host. */
export async function writeEntry(dataDirectory: string, entry: JournalEntry): Promise<void> {
  await mkdir(journalDirectory(dataDirectory), { recursive: true, mode: 0o700 });
  const file = entryFile(dataDirectory, entry.id);
  const temporary = `${file}.new`;
  const handle = await open(temporary, "w", 0o600);
  try {
    await handle.writeFile(JSON.stringify(entry));
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, file);
}

/** The last thing that is done for a sandbox, when all else of it is gone. */
export async function removeEntry(dataDirectory: string, id: SandboxId): Promise<void> {
  await rm(entryFile(dataDirectory, id), { force: true });
}

export async function readEntries(dataDirectory: string): Promise<readonly JournalEntry[]> {
  const directory = journalDirectory(dataDirectory);
  if (!existsSync(directory)) return [];
  const entries: JournalEntry[] = [];
  for (const name of await readdir(directory)) {
    if (!name.endsWith(".json")) continue;
    // Another process may have finished with it since.
    const text = await readFile(join(directory, name), "utf8").catch(() => undefined);
    if (text !== undefined) entries.push(JSON.parse(text) as JournalEntry);
  }
  return entries;
}

function journalDirectory(dataDirectory: string): string {
  return join(dataDirectory, "journal");
}

function entryFile(dataDirectory: string, id: string): string {
  return join(journalDirectory(dataDirectory), `${id}.json`);
}
