import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { hostFiles, makeDurableDirectory } from "#host/storage/durable-files.ts";
import { failpoint } from "#host/failpoints.ts";
import { lockFile } from "#host/file-lock.ts";
import { killMachineProcesses, machineProcessesOf } from "#host/kill-by-path.ts";
import { isWorkerAlive, liveWorkers, removeDeadWorkers } from "#host/worker-lock.ts";
import { removeLeftOverNetworks } from "#network/host-firewall.ts";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { resumeAfterCapture } from "#machine/capture-machine.ts";
import type { Host } from "#machine/host.ts";
import { adoptHostResources, takeFromUser, tenantGroupOf } from "#machine/host-resources.ts";
import { memoryMibOf } from "#machine/shape/hotplug.ts";
import { limitProcessorsOf } from "#machine/limits/machine-limits.ts";
import { limitsOf } from "#machine/shape/reshape-machine.ts";
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
  startMark,
  writeEntry,
} from "#machine/journal.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import type { MachineRequest } from "#machine/machine-request.ts";
import { adoptMachine, endedMachine } from "#machine/start-machine.ts";
import { isBeingMade } from "#templates/templates.ts";
import { LiveSandbox } from "./live-sandbox.ts";
import { applyNetworkPolicy } from "./network-policy.ts";

export interface Adopted {
  readonly sandbox: LiveSandbox;
  readonly running: boolean;
}

/** An entry whose machine belongs to a sandbox. */
type SandboxEntry = JournalEntry & Required<Pick<JournalEntry, "sandbox" | "machine">>;

/** Another worker that starts at the same time may adopt the machines first, which takes at most seconds for each. */
const lockTimeoutMs = 600_000;

/** Whether machines run after their adoption. */
type Adopting = "running" | "paused";

/**
 * Adopts the machines of dead workers and removes everything else that those workers left: processes, directories,
 * namespaces, slots. Machines of live workers are not touched. Every step can be repeated.
 */
export async function adoptMachines(host: Host, adopting: Adopting = "running"): Promise<readonly Adopted[]> {
  const { dataDirectory } = host;
  await makeDurableDirectory(dirname(journalLock(dataDirectory)), 0o700, hostFiles);
  using _lock = await lockFile(journalLock(dataDirectory), { wait: true }, AbortSignal.timeout(lockTimeoutMs));
  const isAlive = (worker: string): boolean => isWorkerAlive(workersDirectory(dataDirectory), worker);
  const adopted: Adopted[] = [];
  const { entries, unreadable } = await readJournal(dataDirectory);
  await keepUnreadable(unreadable, host);
  const newest = newestGenerations(entries);
  for (const entry of entries) {
    if (isAlive(entry.workerId)) continue;
    const wanted = belongsToSandbox(entry) && !entry.ephemeral && !isSuperseded(entry, newest);
    // A worker of one command adopts nothing: the machine would end with the command.
    if (wanted && host.ephemeral) {
      await protectDisks(entry, host);
      continue;
    }
    const sandbox = wanted ? await adopt(entry, host, adopting) : undefined;
    if (sandbox === undefined) await remove(entry, dataDirectory);
    else adopted.push(sandbox);
  }
  await removeUnfinishedEntries(dataDirectory, isAlive);
  await host.snapshots.removeUnfinished(isAlive);
  await host.templates.removeUnfinished(async (_worker, key) => await isBeingMade(host, key));
  if (host.root) await removeLeftOverNetworks();
  await removeLeftOverCgroups(host, adopted, isAlive);
  const left = new Set((await readEntries(dataDirectory)).map(({ workerId }) => workerId));
  await removeDeadWorkers(workersDirectory(dataDirectory), (id) => left.has(id));
  return adopted;
}

export function workersDirectory(dataDirectory: string): string {
  return join(dataDirectory, "workers");
}

/** The cgroup of a worker's guest-facing services. */
export function servicesCgroup(workerId: string): string {
  return `services-${workerId}`;
}

async function removeLeftOverCgroups(
  { cgroups, dataDirectory, workerId }: Host,
  adopted: readonly Adopted[],
  isAlive: (workerId: string) => boolean,
): Promise<void> {
  const { entries, unreadable } = await readJournal(dataDirectory);
  // The others belong to live workers, or wait for one that adopts machines.
  const needed = new Set(entries.filter((entry) => entry.workerId !== workerId).map(({ machineId }) => machineId));
  for (const machineId of unreadable) needed.add(machineId);
  for (const { sandbox, running } of adopted) if (running) needed.add(sandbox.live.id);
  const prefix = servicesCgroup("");
  await cgroups?.removeLeftOver((name) =>
    name.startsWith(prefix) ? isAlive(name.slice(prefix.length)) : needed.has(name),
  );
}

function belongsToSandbox(entry: JournalEntry): entry is SandboxEntry {
  return entry.sandbox !== undefined && entry.machine !== undefined;
}

/** The newest generation of each sandbox that has, or had, a machine here. */
function newestGenerations(entries: readonly JournalEntry[]): ReadonlyMap<SandboxId, number> {
  const newest = new Map<SandboxId, number>();
  for (const { sandbox } of entries.filter(belongsToSandbox)) {
    newest.set(sandbox.id, Math.max(sandbox.generation, newest.get(sandbox.id) ?? 0));
  }
  return newest;
}

/** Whether a later start gave the sandbox another machine: this one could not be removed when it should have been. */
function isSuperseded({ sandbox }: SandboxEntry, newest: ReadonlyMap<SandboxId, number>): boolean {
  return sandbox.generation < (newest.get(sandbox.id) ?? 0);
}

/** Undefined: a snapshot has taken the machine's place, and nothing of the machine is to be kept. */
async function adopt(entry: SandboxEntry, host: Host, adopting: Adopting): Promise<Adopted | undefined> {
  const { machineId: id, sandbox: request, machine, hibernating, ...rest } = entry;
  // The snapshot was complete before the machine was to end.
  if (hibernating !== undefined && (await isWhole(hibernating, host))) return undefined;
  const { workspaceMib, networkEnabled } = request;
  const { vcpus, memoryMib } = machine.spec;
  const wanted = {
    id,
    image: machine.image,
    shape: { vcpus, memoryMib, workspaceMib },
    networkEnabled,
    tenantGroup: tenantGroupOf(request),
  };
  const taken = await takeOver(wanted, machine, { request, adopting }, host);
  const live = taken ?? (await keepDisks(wanted, machine, host));
  // A worker that died while it changed the size may not have journaled the new one.
  const sandbox = taken === undefined ? request : { ...request, memoryMib: await sandboxMemoryMib(taken, request) };
  live.limits = limitsOf(live, sandbox);
  if (taken !== undefined) await limitProcessorsOf(taken, sandbox);
  await failpoint("journal adoption");
  const journaled = taken?.journaled() ?? machine;
  const { workerId } = host;
  await writeEntry(host.dataDirectory, { machineId: id, sandbox, ...rest, machine: journaled, workerId });
  return { sandbox: new LiveSandbox(sandbox, live), running: live.hasProcess };
}

/** The memory of a sandbox whose machine runs, in MiB. Below the machine's first memory it is a limit of the guest. */
async function sandboxMemoryMib(live: LiveMachine, { memoryMib }: StartSandbox): Promise<number> {
  const presentMib = await memoryMibOf(live);
  return presentMib === live.shape.memoryMib ? Math.min(presentMib, memoryMib) : presentMib;
}

/** Whether the snapshot can take the machine's place; a damaged one cannot. */
async function isWhole(snapshotId: SnapshotId, host: Host): Promise<boolean> {
  try {
    return (await host.snapshots.find(snapshotId)) !== undefined;
  } catch (error) {
    if (isSandboxError(error, "incompatible")) return false;
    throw error;
  }
}

/** Undefined: the machine has no process, or its process does not answer. */
async function takeOver(
  wanted: MachineRequest,
  machine: JournaledMachine,
  { request, adopting }: { readonly request: StartSandbox; readonly adopting: Adopting },
  host: Host,
): Promise<LiveMachine | undefined> {
  const pids = await machineProcessesOf(machineDirectory(host.dataDirectory, wanted.id));
  if (pids.length === 0) return undefined;
  const fields = { sandbox: request.id, machine: wanted.id };
  await using undo = new AsyncDisposableStack();
  try {
    await failpoint("adopt machine");
    const live = await adoptMachine(wanted, machine, pids, host);
    undo.defer(() => live.stop());
    await applyNetworkPolicy(live, request, host);
    await failpoint("resume after adoption");
    // A worker that died during a capture left the machine paused and its disks frozen. Other machines do not notice.
    if (adopting === "paused") await live.vm.pause();
    else
      await resumeAfterCapture(live).catch((error: unknown) => {
        host.log(
          "warn",
          "an adopted machine may still be paused or frozen; power-cycle its sandbox if it does not answer",
          { ...fields, ...describeError(error) },
        );
      });
    undo.move();
    return live;
  } catch (error) {
    host.log("error", "cannot adopt a machine; its disks are kept", { ...fields, ...describeError(error) });
    return undefined;
  }
}

/**
 * Makes the directory of a machine that has ended root's. A reboot of the host leaves it to the machine's user, whom the
 * next machine on the slot gets.
 */
async function protectDisks({ machineId }: JournalEntry, { dataDirectory, root }: Host): Promise<void> {
  const directory = machineDirectory(dataDirectory, machineId);
  if (root && (await machineProcessesOf(directory)).length === 0) await takeFromUser(directory);
}

/** Keeps the disks of a machine that has ended. The next machine on them acquires host resources of its own. */
async function keepDisks(wanted: MachineRequest, machine: JournaledMachine, host: Host): Promise<LiveMachine> {
  const { id, tenantGroup } = wanted;
  const directory = machineDirectory(host.dataDirectory, id);
  // The process ends first: its resources must not be given to another one while it runs.
  await killMachineProcesses(directory);
  // After a reboot of the host nothing has the slot, and another machine may take it.
  if (host.root) await takeFromUser(directory);
  const { slot, network } = machine;
  try {
    if (slot !== undefined) {
      await using _ = await adoptHostResources(directory, slot, network, tenantGroup, host);
    }
  } catch (error) {
    // A reboot of the host removes them, and so does an earlier attempt.
    if (!isSandboxError(error, "not_found")) {
      const message = "cannot remove the network of an ended machine; it stays until the machine is removed";
      host.log("warn", message, { machine: id, ...describeError(error) });
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
    await killMachineProcesses(machineDirectory(dataDirectory, machine));
    if (existsSync(startMark(dataDirectory, machine))) {
      await remove({ machineId: machine }, dataDirectory);
      log("warn", "a machine was removed that was being started when the power failed", { machine });
      continue;
    }
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

async function remove(entry: Pick<JournalEntry, "machineId">, dataDirectory: string): Promise<void> {
  const directory = machineDirectory(dataDirectory, entry.machineId);
  // The process ends first: its resources must not be given to another one while it runs.
  await killMachineProcesses(directory);
  await rm(directory, { recursive: true, force: true });
  // The entry goes last: until then the next worker repeats these steps.
  await removeEntry(dataDirectory, entry.machineId);
}
