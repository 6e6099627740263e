import { mkdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type DurableFiles, hostFiles, makeDurableDirectory } from "#host/storage/durable-files.ts";
import { namesIn } from "#host/storage/names-in.ts";
import { together } from "#host/together.ts";
import type { VmSpec } from "#hypervisor/hypervisor.ts";
import type { MachineFiles } from "#snapshots/manifest.ts";
import type { Host } from "./host.ts";
import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";

/**
 * The record of one machine, in a file that the worker writes before the machine's first side effect. The machine's id
 * names everything that belongs to it, so the next worker finds what a dead one has left: it takes over the machine of
 * a sandbox and removes any other.
 *
 * An entry with a `machine` says where a sandbox's disks are, so it survives a power cut together with the names of the
 * files that it lists.
 */
export interface JournalEntry {
  readonly machineId: string;
  readonly workerId: string;
  /** The machine ends with its worker. */
  readonly ephemeral: boolean;
  /** Absent while the machine belongs to no sandbox. */
  readonly sandbox?: StartSandbox;
  /** Absent until the sandbox has started on it. */
  readonly machine?: JournaledMachine;
  /** A snapshot that takes the machine's place once it exists. */
  readonly hibernating?: SnapshotId;
}

/** What another process needs to take over a machine. */
export interface JournaledMachine {
  readonly slot?: number;
  /** `growthMib` is the stored name of `hotplugMib`. */
  readonly spec: Omit<VmSpec, "network" | "hotplugMib" | "cgroupEntrances"> & { readonly growthMib: number };
  readonly network: "none" | "user" | "tap";
  readonly image: string;
  readonly files: MachineFiles;
  /** The number of the next disk layer. */
  readonly nextLayer: number;
}

/** The directory of a machine's files. */
export function machineDirectory(dataDirectory: string, machineId: string): string {
  return join(dataDirectory, "machines", machineId);
}

/** Writes of one entry happen in the order of the calls. */
const writes = new Map<string, Promise<void>>();

/** Writes or replaces an entry. One with a `machine` is on the disk when this resolves. */
export async function writeEntry(
  dataDirectory: string,
  entry: JournalEntry,
  files: DurableFiles = hostFiles,
): Promise<void> {
  const path = entryFile(dataDirectory, entry.machineId);
  const earlier = writes.get(path);
  const written = (async () => {
    // The caller of the earlier write receives its failure.
    await earlier?.catch(() => undefined);
    await using staged = await stageEntry(dataDirectory, entry, files);
    await staged.commit();
    if (entry.machine !== undefined) await flushJournal(dataDirectory, files);
  })();
  writes.set(path, written);
  try {
    await written;
  } finally {
    if (writes.get(path) === written) writes.delete(path);
  }
}

/** An entry that is written and does not count yet. Disposing it before it is committed removes it. */
export interface StagedEntry extends AsyncDisposable {
  /** Makes the entry count. It survives a power cut once {@link flushJournal} has resolved. */
  commit(): Promise<void>;
}

/**
 * Writes an entry that is to count later: forcing it to the disk takes milliseconds, which a start spends on other
 * things. An entry with a `machine`, and the names of the machine's files, are on the disk when this resolves.
 */
export async function stageEntry(
  dataDirectory: string,
  entry: JournalEntry,
  files: DurableFiles = hostFiles,
): Promise<StagedEntry> {
  const directory = journalDirectory(dataDirectory);
  const unfinished = join(directory, `${entry.machineId}.${entry.workerId}${unfinishedSuffix}`);
  await makeDurableDirectory(directory, 0o700, files);
  let committed = false;
  await using undo = new AsyncDisposableStack();
  undo.defer(async () => {
    if (!committed) await rm(unfinished, { force: true });
  });
  await files.write(unfinished, JSON.stringify(entry), entryMode);
  if (entry.machine !== undefined) {
    const machine = machineDirectory(dataDirectory, entry.machineId);
    await together([unfinished, machine, dirname(machine)].map((path) => files.flush(path)));
  }
  const owned = undo.move();
  return {
    async commit() {
      await files.rename(unfinished, entryFile(dataDirectory, entry.machineId));
      committed = true;
      if (entry.machine !== undefined) await rm(startMark(dataDirectory, entry.machineId), { force: true });
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Flushes the directory of the journal: after a power cut it has the same entries as now. */
export async function flushJournal(dataDirectory: string, files: DurableFiles = hostFiles): Promise<void> {
  await files.flush(journalDirectory(dataDirectory));
}

const entryMode = 0o600;

/**
 * Records a machine that runs for a sandbox: everything that the next worker needs to adopt it. `hibernating` names
 * the snapshot that is about to take the machine's place.
 */
export async function journalMachine(
  machine: JournalableMachine,
  sandbox: StartSandbox,
  host: JournalHost & Pick<Host, "dataDirectory">,
  hibernating?: SnapshotId,
): Promise<void> {
  const entry = entryOf(machine, sandbox, host);
  await writeEntry(host.dataDirectory, hibernating === undefined ? entry : { ...entry, hibernating });
}

/** The entry of a machine that runs for a sandbox. */
export function entryOf(
  machine: JournalableMachine,
  sandbox: StartSandbox,
  { workerId, ephemeral }: JournalHost,
): JournalEntry {
  return { machineId: machine.id, workerId, ephemeral, sandbox: withoutSecrets(sandbox), machine: machine.journaled() };
}

/** The request as it is stored: it says that there are secrets, and contains neither their values nor a private key. */
export function withoutSecrets(sandbox: StartSandbox): StartSandbox {
  return sandbox.secrets === undefined ? sandbox : { ...sandbox, secrets: { secrets: [] } };
}

type JournalHost = Pick<Host, "workerId" | "ephemeral">;

interface JournalableMachine {
  readonly id: string;
  journaled(): JournaledMachine;
}

/** Ends the name of an entry that is being written; the writer's id comes before it. */
const unfinishedSuffix = ".new";

/** Removes entries that dead workers were writing. What such an entry was to announce has not begun. */
export async function removeUnfinishedEntries(
  dataDirectory: string,
  isAlive: (workerId: string) => boolean,
): Promise<void> {
  const directory = journalDirectory(dataDirectory);
  for (const name of await namesIn(directory)) {
    if (!name.endsWith(unfinishedSuffix)) continue;
    const [, workerId = ""] = name.split(".");
    if (!isAlive(workerId)) await rm(join(directory, name), { force: true });
  }
}

/** Removes a machine's entry. Call it last, when nothing else of the machine is left. */
export async function removeEntry(dataDirectory: string, machineId: string): Promise<void> {
  await rm(entryFile(dataDirectory, machineId), { force: true });
}

export interface Journal {
  readonly entries: readonly JournalEntry[];
  /** Machines whose entry is empty, torn or otherwise unreadable. */
  readonly unreadable: readonly string[];
}

export async function readJournal(dataDirectory: string): Promise<Journal> {
  const directory = journalDirectory(dataDirectory);
  const entries: JournalEntry[] = [];
  const unreadable: string[] = [];
  for (const name of await namesIn(directory)) {
    if (!name.endsWith(entrySuffix)) continue;
    const machineId = name.slice(0, -entrySuffix.length);
    const entry = await readEntry(join(directory, name), machineId);
    if (entry === "unreadable") unreadable.push(machineId);
    else if (entry !== undefined) entries.push(entry);
  }
  return { entries, unreadable };
}

/** The machines that have an entry, readable or not. */
export async function journaledMachines(dataDirectory: string): Promise<ReadonlySet<string>> {
  const names = await namesIn(journalDirectory(dataDirectory));
  return new Set(names.filter((name) => name.endsWith(entrySuffix)).map((name) => name.slice(0, -entrySuffix.length)));
}

export async function readEntries(dataDirectory: string): Promise<readonly JournalEntry[]> {
  return (await readJournal(dataDirectory)).entries;
}

/** Undefined when another process has removed it since. */
async function readEntry(path: string, machineId: string): Promise<JournalEntry | "unreadable" | undefined> {
  try {
    const entry = JSON.parse(await readFile(path, "utf8")) as Partial<JournalEntry> | null;
    const isEntry = entry?.machineId === machineId && typeof entry.workerId === "string";
    return isEntry ? (entry as JournalEntry) : "unreadable";
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT" ? undefined : "unreadable";
  }
}

/**
 * A file in a machine's directory from its creation until its sandbox has started. Only then does the journal entry
 * survive a power cut, so this file tells an entry that is empty for a start that never ended from a damaged one.
 */
export function startMark(dataDirectory: string, machineId: string): string {
  return join(machineDirectory(dataDirectory, machineId), "starting");
}

/** Holds the files of machines whose journal entries could not be read. No sweep looks here. */
export function lostAndFoundDirectory(dataDirectory: string): string {
  return join(dataDirectory, "machines", "lost+found");
}

/**
 * Moves a machine's directory and its unreadable entry to {@link lostAndFoundDirectory}. Returns the new
 * place; undefined when the machine has no files, and then the entry is removed.
 */
export async function setMachineAside(dataDirectory: string, machineId: string): Promise<string | undefined> {
  const directory = machineDirectory(dataDirectory, machineId);
  if ((await namesIn(directory)).length === 0) {
    await rm(directory, { recursive: true, force: true });
    await removeEntry(dataDirectory, machineId);
    return undefined;
  }
  const lostAndFound = lostAndFoundDirectory(dataDirectory);
  await mkdir(lostAndFound, { recursive: true, mode: 0o700 });
  const kept = join(lostAndFound, `${machineId}-${Date.now()}`);
  await rename(directory, kept);
  await rename(entryFile(dataDirectory, machineId), join(kept, "journal-entry.json"));
  return kept;
}

/**
 * A lock that a worker holds while it takes over machines of dead workers, so that two do not take the same machine.
 */
export function journalLock(dataDirectory: string): string {
  return join(journalDirectory(dataDirectory), "lock");
}

function journalDirectory(dataDirectory: string): string {
  return join(dataDirectory, "journal");
}

function entryFile(dataDirectory: string, machineId: string): string {
  return join(journalDirectory(dataDirectory), `${machineId}${entrySuffix}`);
}

const entrySuffix = ".json";
