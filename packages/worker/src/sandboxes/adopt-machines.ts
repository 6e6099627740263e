import { rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { hostFiles, makeDurableDirectory } from "#host/durable-files.ts";
import { failpoint } from "#host/failpoints.ts";
import { lockFile } from "#host/file-lock.ts";
import { killProcessesOf, processesOf } from "#host/kill-by-path.ts";
import { isWorkerAlive, liveWorkers, removeDeadWorkers } from "#host/worker-lock.ts";
import { removeLeftOverNetworks } from "#network/host-firewall.ts";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { memoryMibOf } from "#machine/hotplug.ts";
import type { Host } from "#machine/host.ts";
import {
  type JournaledMachine,
  type JournalEntry,
  journalLock,
  machineDirectory,
  readEntries,
  readJournal,
  removeEntry,
  removeUnfinishedEntries,
  setMachineAside,
  writeEntry,
} from "#machine/journal.ts";
import { resumeAfterCapture } from "#machine/capture-machine.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import { LiveSandbox } from "./live-sandbox.ts";
import { applyNetworkPolicy } from "./network-policy.ts";
import { adoptHostResources } from "#machine/host-resources.ts";
import { adoptMachine, endedMachine, type MachineRequest } from "#machine/start-machine.ts";
import { isBeingMade } from "#templates/templates.ts";

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
  await makeDurableDirectory(dirname(journalLock(dataDirectory)), 0o700, hostFiles);
  using _lock = await lockFile(journalLock(dataDirectory), { wait: true });
  const isAlive = (worker: string): boolean => isWorkerAlive(workersDirectory(dataDirectory), worker);
  const adopted: Adopted[] = [];
  const journal = await readJournal(dataDirectory);
  await keepUnreadable(journal.unreadable, host);
  for (const entry of journal.entries) {
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
  if (hibernating !== undefined && (await isThere(hibernating, host))) return undefined;
  const { vcpus, workspaceMib, networkEnabled, organizationId } = request;
  const { memoryMib } = machine.spec;
  const wanted = {
    id,
    image: machine.image,
    shape: { vcpus, memoryMib, workspaceMib },
    networkEnabled,
    organizationId,
  };
  const taken = await takeOver(wanted, machine, request, host);
  const live = taken ?? (await keepDisks(wanted, machine, host));
  // A worker that died while it changed the size may not have written that down.
  const sandbox = taken === undefined ? request : { ...request, memoryMib: await memoryMibOf(taken) };
  await failpoint("journal adoption");
  const journaled = taken?.journaled() ?? machine;
  const { workerId } = host;
  await writeEntry(host.dataDirectory, { machineId: id, sandbox, ...rest, machine: journaled, workerId });
  return { sandbox: new LiveSandbox(sandbox, live), running: live.hasProcess };
}

/** A damaged one is none: the machine is worth more. */
async function isThere(snapshotId: SnapshotId, host: Host): Promise<boolean> {
  try {
    return (await host.snapshots.find(snapshotId)) !== undefined;
  } catch (error) {
    if (isSandboxError(error, "incompatible")) return false;
    throw error;
  }
}

/** Undefined: there is no process, or none that answers. */
async function takeOver(
  wanted: MachineRequest,
  machine: JournaledMachine,
  request: StartSandbox,
  host: Host,
): Promise<LiveMachine | undefined> {
  const [pid] = await processesOf(machineDirectory(host.dataDirectory, wanted.id));
  if (pid === undefined) return undefined;
  const fields = { sandbox: request.id, machine: wanted.id };
  await using undo = new AsyncDisposableStack();
  try {
    await failpoint("adopt machine");
    const live = await adoptMachine(wanted, machine, pid, host);
    undo.defer(() => live.stop());
    await applyNetworkPolicy(live, request, host);
    await failpoint("go on after adoption");
    // A worker that died while it captured has left the machine paused and its disks frozen; others are as they were.
    await resumeAfterCapture(live).catch((error: unknown) => {
      host.log("warn", "a machine that was taken over may stand still", { ...fields, ...describeError(error) });
    });
    undo.move();
    return live;
  } catch (error) {
    host.log("error", "a machine could not be taken over: its disks are kept", { ...fields, ...describeError(error) });
    return undefined;
  }
}

/** The disks are the sandbox when its machine has ended; the next machine on them takes another resources. */
async function keepDisks(wanted: MachineRequest, machine: JournaledMachine, host: Host): Promise<LiveMachine> {
  const { id, organizationId } = wanted;
  const directory = machineDirectory(host.dataDirectory, id);
  // The process first: nothing that it uses may be given to another one before.
  await killProcessesOf(directory);
  const { slot, network } = machine;
  try {
    const resources =
      slot === undefined ? undefined : await adoptHostResources(directory, slot, network, organizationId, host);
    await resources?.[Symbol.asyncDispose]();
  } catch (error) {
    // It went when the host was started again, or was given back already.
    if (!isSandboxError(error, "not_found")) {
      host.log("warn", "a network is left over until its machine is removed", { machine: id, ...describeError(error) });
    }
  }
  return endedMachine(wanted, machine, host);
}

/**
 * Keeps the disks of machines whose journal entries cannot be read, as a power cut may leave them: a sandbox's row may
 * still claim such a machine, and only a person can find out.
 */
async function keepUnreadable(machineIds: readonly string[], { dataDirectory, workerId, log }: Host): Promise<void> {
  if (machineIds.length === 0) return;
  const others = (await liveWorkers(workersDirectory(dataDirectory))).filter((id) => id !== workerId);
  for (const machine of machineIds) {
    if (others.length > 0) {
      log("error", "a journal entry cannot be read and is left alone, since it may be that of a running worker", {
        machine,
        workers: others,
      });
      continue;
    }
    await killProcessesOf(machineDirectory(dataDirectory, machine));
    const directory = await setMachineAside(dataDirectory, machine);
    if (directory === undefined) {
      log("warn", "a journal entry that could not be read was removed: its machine has no files", { machine });
      continue;
    }
    log(
      "error",
      "a journal entry cannot be read: the machine's disks were moved aside and no sandbox uses them. Copy out what " +
        "you need (each disk is its overlay with the highest number), then delete the directory",
      { machine, directory },
    );
  }
}

async function remove(entry: JournalEntry, dataDirectory: string): Promise<void> {
  const directory = machineDirectory(dataDirectory, entry.machineId);
  // The process first: nothing that it uses may be given to another one before.
  await killProcessesOf(directory);
  await rm(directory, { recursive: true, force: true });
  // The entry last: until here a crash of this process leads to the same steps again.
  await removeEntry(dataDirectory, entry.machineId);
}
