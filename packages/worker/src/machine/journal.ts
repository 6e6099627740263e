import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { VmSpec } from "#hypervisor/hypervisor.ts";
import type { MachineFiles } from "#snapshots/manifest.ts";
import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";

/**
 * What a worker has begun for a machine, in a file before the first side effect. The machine's id names everything that
 * comes after it, so that the next worker finds what a killed one has left: it takes a machine of a sandbox over, and
 * removes any other.
 *
 * The file is for the death of the worker, not of the host, after which no machine is left to be taken over: so it is
 * not forced to the disk.
 */
export interface JournalEntry {
  readonly machineId: string;
  readonly workerId: string;
  /** Nobody wants it once its worker is gone. */
  readonly ephemeral: boolean;
  /** Absent while the machine has not been given to anybody. */
  readonly sandbox?: StartSandbox;
  /** Absent until it runs for the first time. */
  readonly machine?: JournaledMachine;
  /** The snapshot that takes the machine's place when it exists. */
  readonly hibernating?: SnapshotId;
}

/** What another process needs to go on with a machine. */
export interface JournaledMachine {
  readonly slot?: number;
  /** `growthMib` is the stored name of `hotplugMib`. */
  readonly spec: Omit<VmSpec, "network" | "hotplugMib"> & { readonly growthMib: number };
  readonly network: "none" | "user" | "tap";
  readonly image: string;
  readonly files: MachineFiles;
  /** The number that the next layer of a disk gets. */
  readonly nextLayer: number;
}

/** Where a machine keeps its files. */
export function machineDirectory(dataDirectory: string, machineId: string): string {
  return join(dataDirectory, "machines", machineId);
}

export async function writeEntry(dataDirectory: string, entry: JournalEntry): Promise<void> {
  const directory = journalDirectory(dataDirectory);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const unfinished = join(directory, `${entry.machineId}.${entry.workerId}${unfinishedSuffix}`);
  await writeFile(unfinished, JSON.stringify(entry), { mode: 0o600 });
  await rename(unfinished, entryFile(dataDirectory, entry.machineId));
}

/** How the name of an entry ends that is being written; before it stands who writes. */
const unfinishedSuffix = ".new";

/** Removes what workers that are gone were writing. What an entry was to announce has not begun. */
export async function removeUnfinishedEntries(
  dataDirectory: string,
  isAlive: (workerId: string) => boolean,
): Promise<void> {
  const directory = journalDirectory(dataDirectory);
  for (const name of existsSync(directory) ? await readdir(directory) : []) {
    if (!name.endsWith(unfinishedSuffix)) continue;
    const [, workerId = ""] = name.split(".");
    if (!isAlive(workerId)) await rm(join(directory, name), { force: true });
  }
}

/** The last thing that is done for a machine, when all else of it is gone. */
export async function removeEntry(dataDirectory: string, machineId: string): Promise<void> {
  await rm(entryFile(dataDirectory, machineId), { force: true });
}

export async function readEntries(dataDirectory: string): Promise<readonly JournalEntry[]> {
  const directory = journalDirectory(dataDirectory);
  if (!existsSync(directory)) return [];
  const entries: JournalEntry[] = [];
  for (const name of await readdir(directory)) {
    if (!name.endsWith(".json")) continue;
    // Another process may have finished with it since.
    const text = await readFile(join(directory, name), "utf8").catch(() => undefined);
    if (text !== undefined) entries.push(parse(text) ?? nothingKnown(name));
  }
  return entries;
}

function parse(text: string): JournalEntry | undefined {
  try {
    return JSON.parse(text) as JournalEntry;
  } catch {
    return undefined;
  }
}

/** A host that dies may leave an empty file: what its name says is enough to remove what is left. */
function nothingKnown(name: string): JournalEntry {
  return { machineId: name.slice(0, -".json".length), workerId: "", ephemeral: true };
}

/** Held by whoever takes machines of gone workers over, so that two do not take the same. */
export function journalLock(dataDirectory: string): string {
  return join(journalDirectory(dataDirectory), "lock");
}

function journalDirectory(dataDirectory: string): string {
  return join(dataDirectory, "journal");
}

function entryFile(dataDirectory: string, machineId: string): string {
  return join(journalDirectory(dataDirectory), `${machineId}.json`);
}
