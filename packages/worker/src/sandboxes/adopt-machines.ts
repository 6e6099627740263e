import { mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { lockFile } from "#host/file-lock.ts";
import { killProcessesOf, processesOf } from "#host/kill-by-path.ts";
import { isWorkerAlive, removeDeadWorkers } from "#host/worker-lock.ts";
import { removeLeftOverNetworks } from "#network/host-firewall.ts";
import { describeError } from "./describe-error.ts";
import type { Host } from "./host.ts";
import {
  type JournaledMachine,
  type JournalEntry,
  journalLock,
  machineDirectory,
  readEntries,
  removeEntry,
  removeUnfinishedEntries,
  writeEntry,
} from "./journal.ts";
import { goOnAfterCapture } from "./capture-machine.ts";
import { LiveSandbox } from "./live-sandbox.ts";
import { applyNetworkPolicy } from "./network-policy.ts";
import { adoptSeat } from "./seat.ts";
import { adoptMachine, endedMachine } from "./start-machine.ts";
import { isBeingMade } from "./templates.ts";

export interface Adopted {
  readonly sandbox: LiveSandbox;
  readonly running: boolean;
}

/**
 * Takes over the machines of workers that are gone, and removes what else they have left: processes, directories,
 * namespaces, slots. Machines of workers that live are not touched. Every step can be run again.
 */
export async function adoptMachines(host: Host): Promise<readonly Adopted[]> {
  const { dataDirectory } = host;
  await mkdir(dirname(journalLock(dataDirectory)), { recursive: true, mode: 0o700 });
  using _lock = await lockFile(journalLock(dataDirectory), { wait: true });
  const isAlive = (worker: string): boolean => isWorkerAlive(workersDirectory(dataDirectory), worker);
  const adopted: Adopted[] = [];
  for (const entry of await readEntries(dataDirectory)) {
    if (isAlive(entry.workerId)) continue;
    const wanted = entry.sandbox !== undefined && entry.machine !== undefined && !entry.ephemeral;
    // Who lives for one command takes nobody over: the machine would end with it.
    if (wanted && host.ephemeral) continue;
    const sandbox = wanted ? await adopt(entry, host) : undefined;
    if (sandbox === undefined) await remove(entry, dataDirectory);
    else adopted.push(sandbox);
  }
  await removeUnfinishedEntries(dataDirectory, isAlive);
  await host.snapshots.removeUnfinished(isAlive);
  await host.templates.removeUnfinished(async (_worker, key) => await isBeingMade(host, key));
  if (host.root) await removeLeftOverNetworks();
  const left = new Set((await readEntries(dataDirectory)).map(({ workerId }) => workerId));
  await removeDeadWorkers(workersDirectory(dataDirectory), (id) => left.has(id));
  return adopted;
}

export function workersDirectory(dataDirectory: string): string {
  return join(dataDirectory, "workers");
}

/** Undefined: nothing of it is to be kept. */
async function adopt(entry: JournalEntry, host: Host): Promise<Adopted | undefined> {
  const { machineId: id, sandbox: request, machine, hibernating, ...rest } = entry;
  if (request === undefined || machine === undefined) return undefined;
  // The snapshot was complete before the machine was to be ended.
  if (hibernating !== undefined && (await host.snapshots.find(hibernating)) !== undefined) return undefined;
  const { vcpus, memoryMib, workspaceMib, networkEnabled, organizationId } = request;
  const wanted = {
    id,
    image: machine.image,
    shape: { vcpus, memoryMib, workspaceMib },
    networkEnabled,
    organizationId,
  };
  try {
    const [pid] = await processesOf(machineDirectory(host.dataDirectory, id));
    const live =
      pid === undefined ? endedMachine(wanted, machine, host) : await adoptMachine(wanted, machine, pid, host);
    if (live.hasProcess) await applyNetworkPolicy(live, request, host);
    else await giveSeatBack(machine, id, organizationId, host);
    // A worker that died while it captured has left the machine paused and its disks frozen; others are as they were.
    if (live.hasProcess) await goOnAfterCapture(live);
    await writeEntry(host.dataDirectory, {
      machineId: id,
      sandbox: request,
      machine,
      ...rest,
      workerId: host.workerId,
    });
    return { sandbox: new LiveSandbox(request, live), running: live.hasProcess };
  } catch (error) {
    host.log("error", "a machine could not be taken over and is removed", {
      sandbox: request.id,
      ...describeError(error),
    });
    return undefined;
  }
}

/** Of a machine that has ended: the next one on its disks takes another. */
async function giveSeatBack(
  { slot, network }: JournaledMachine,
  machineId: string,
  organizationId: string,
  host: Host,
): Promise<void> {
  if (slot === undefined) return;
  const directory = machineDirectory(host.dataDirectory, machineId);
  const seat = await adoptSeat(directory, slot, network, organizationId, host);
  await seat[Symbol.asyncDispose]();
}

async function remove(entry: JournalEntry, dataDirectory: string): Promise<void> {
  const directory = machineDirectory(dataDirectory, entry.machineId);
  // The process first: nothing that it uses may be given to another one before.
  await killProcessesOf(directory);
  await rm(directory, { recursive: true, force: true });
  // The entry last: until here a crash of this process leads to the same steps again.
  await removeEntry(dataDirectory, entry.machineId);
}
