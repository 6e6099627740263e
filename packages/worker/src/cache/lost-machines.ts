import { lstat, mkdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { failpoint } from "#host/failpoints.ts";
import { lockFile } from "#host/file-lock.ts";
import { machineProcessesOf } from "#host/kill-by-path.ts";
import { allocatedBytes, filesBelow } from "#host/storage/disk-use.ts";
import { hostFiles, makeDurableDirectory } from "#host/storage/durable-files.ts";
import { namesIn } from "#host/storage/names-in.ts";
import { journalLock, journaledMachines, lostAndFoundDirectory, machineDirectory } from "#machine/journal.ts";

/** Disks of a machine that were moved aside, since no journal entry names them or the entry cannot be read. */
export interface LostMachine {
  /** The name of the directory in {@link lostAndFoundDirectory}. */
  readonly name: string;
  readonly movedAt: Date;
  readonly bytes: number;
}

/** A start writes its journal entry before it makes the directory, so an older directory without one is left over. */
const minAgeMs = 3_600_000;

/**
 * Moves the directories of machines without a journal entry aside. They may hold a sandbox's disks, so they are removed
 * only when they have been there for the time of retention.
 * @returns the machines' ids
 */
export async function setUnclaimedAside(dataDirectory: string, now: Date): Promise<readonly string[]> {
  await makeDurableDirectory(dirname(journalLock(dataDirectory)), 0o700, hostFiles);
  using lock = await lockFile(journalLock(dataDirectory), { wait: false });
  // A worker that starts is adopting machines.
  if (lock === undefined) return [];
  const moved: string[] = [];
  for (const id of await unclaimedMachines(dataDirectory, now)) {
    const lostAndFound = lostAndFoundDirectory(dataDirectory);
    await failpoint("move machine aside");
    await mkdir(lostAndFound, { recursive: true, mode: 0o700 });
    await rename(machineDirectory(dataDirectory, id), join(lostAndFound, `${id}-${now.getTime()}`));
    moved.push(id);
  }
  return moved;
}

/** Machines that have a directory, no process and no journal entry. */
export async function unclaimedMachines(dataDirectory: string, now: Date): Promise<readonly string[]> {
  const unclaimed: string[] = [];
  // The directories are listed first: an entry is there before its directory and goes after it.
  const ids = (await namesIn(join(dataDirectory, "machines"))).filter((name) => /^m-[0-9a-f]+$/.test(name));
  const journaled = await journaledMachines(dataDirectory);
  for (const id of ids.filter((id) => !journaled.has(id))) {
    const directory = machineDirectory(dataDirectory, id);
    const stats = await lstat(directory).catch(() => undefined);
    if (stats === undefined || now.getTime() - stats.ctimeMs < minAgeMs) continue;
    if ((await machineProcessesOf(directory)).length === 0) unclaimed.push(id);
  }
  return unclaimed;
}

/** What {@link setUnclaimedAside}, or a worker that found a damaged journal entry, has moved aside. */
export async function lostMachines(dataDirectory: string): Promise<readonly LostMachine[]> {
  const lostAndFound = lostAndFoundDirectory(dataDirectory);
  const found: LostMachine[] = [];
  for (const name of await namesIn(lostAndFound)) {
    const [, time] = /-(\d+)$/.exec(name) ?? [];
    const directory = join(lostAndFound, name);
    const movedAt = time === undefined ? (await lstat(directory)).ctime : new Date(Number(time));
    found.push({ name, movedAt, bytes: allocatedBytes(ownFiles(await filesBelow(directory))) });
  }
  return found;
}

export async function removeLostMachine(dataDirectory: string, { name }: LostMachine): Promise<void> {
  await rm(join(lostAndFoundDirectory(dataDirectory), name), { recursive: true, force: true });
}

/** The files that have no other name. */
function ownFiles(files: Awaited<ReturnType<typeof filesBelow>>): Awaited<ReturnType<typeof filesBelow>> {
  return files.filter(({ links }) => links === 1);
}
