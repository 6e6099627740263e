import { setTimeout as sleep } from "node:timers/promises";
import type { MemberReport } from "@opensandbox/server/fleet.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ArmCall } from "../../resource-manager/arm-client.ts";
import { sizeProblems } from "../../resource-manager/create-host.ts";
import {
  changeCall,
  changeScaleSet,
  deleteCall,
  deleteMachine,
  listMachines,
  type Machine,
  readScaleSet,
  runsOn,
  type ScaleSetTarget,
  upgradeTag,
} from "./scale-set.ts";

export type RollingWorker = Pick<MemberReport, "id" | "url" | "state" | "draining" | "left">;

/** The server of the fleet, as an upgrade uses it. */
export interface RollOperator {
  listWorkers(): Promise<readonly RollingWorker[]>;
  drainWorker(id: string): Promise<void>;
  removeWorker(id: string): Promise<void>;
}

export interface RollTarget extends ScaleSetTarget {
  /** The id of the image from which every worker is to start. */
  readonly image: string;
  /** Base64 of the user data of new workers. */
  readonly customData: string;
}

export interface Rolling extends RollTarget {
  readonly operator: RollOperator;
  readonly note: (text: string) => void;
  /** The wait between two looks at the workers. Absent: 5 s. */
  readonly pollMs?: number;
}

const defaultPollMs = 5000;
/** A machine boots and joins within some minutes. */
const joinTimeoutMs = 20 * 60_000;
/** The longest time in which a drain moves nothing. A sandbox with much memory takes minutes. */
const stallTimeoutMs = 30 * 60_000;
/** The server notices within seconds that a machine is gone. */
const silenceTimeoutMs = 3 * 60_000;

/**
 * Replaces each worker that started from another image: adds a machine, drains an old worker and deletes its machine,
 * one after another. Without quota for one more machine, the old one goes first. The state is Azure's and the server's
 * alone, so that a second run continues after an interruption at any call. @returns the number of replaced workers
 * @throws `unavailable` when a worker cannot be drained, `timed_out` when a machine does not join or a drain stalls
 */
export async function rollWorkers(rolling: Rolling, signal: AbortSignal): Promise<number> {
  const { note } = rolling;
  const isOld = isOldFor(rolling);
  const wanted = await begin(rolling, signal);
  if (wanted === undefined) return 0;
  let replaced = 0;
  for (let hasRoom = true; ;) {
    const machines = await listMachines(rolling, signal);
    const old = machines.filter(isOld);
    const fresh = machines.filter((machine) => !isOld(machine));
    const failed = fresh.find(({ provisioningState }) => provisioningState === "Failed");
    if (failed !== undefined) {
      note(`workers: deleting ${failed.host}, which Azure could not place`);
      await deleteMachine(rolling, failed.instanceId, signal);
      hasRoom = false;
      continue;
    }
    const capacity = old.length > 0 && hasRoom ? wanted + 1 : wanted;
    if (machines.length < capacity) {
      note(`workers: adding a machine of the new image, ${old.length} to replace`);
      hasRoom = await grow(rolling, { capacity, isNeeded: capacity === wanted }, signal);
      continue;
    }
    await waitUntilJoined(rolling, fresh, signal);
    const [next] = old;
    if (next === undefined) break;
    if (machines.length === 1) {
      const message = `no other worker can take the sandboxes of ${next.host}: ask for quota for one more machine of its size in the portal (Subscriptions, Usage + quotas), and run the command again`;
      throw new SandboxError("unavailable", message);
    }
    await retire(rolling, next, signal);
    replaced += 1;
  }
  const { tags } = await readScaleSet(rolling, signal);
  await require(changeScaleSet(rolling, endBody(tags), signal), "end the upgrade");
  return replaced;
}

/** The calls of {@link rollWorkers} that change something, where Azure has room for one more machine. Sends none of them. */
export async function plannedRoll(rolling: RollTarget, signal: AbortSignal): Promise<readonly ArmCall[]> {
  const { capacity, sku, tags } = await readScaleSet(rolling, signal);
  const old = (await listMachines(rolling, signal)).filter(isOldFor(rolling));
  const wanted = wantedOf(tags, capacity);
  if (old.length === 0 && tags[upgradeTag] === undefined) return [];
  return [
    changeCall(rolling, beginBody(rolling, tags, wanted)),
    ...old.flatMap(({ instanceId }) => [
      changeCall(rolling, { sku: { ...sku, capacity: wanted + 1 } }),
      deleteCall(rolling, instanceId),
    ]),
    changeCall(rolling, endBody(tags)),
  ];
}

type Tags = Readonly<Record<string, string>>;

function isOldFor({ image }: RollTarget): (machine: Machine) => boolean {
  return (machine) => machine.image.toLowerCase() !== image.toLowerCase();
}

/** The number of workers before and after the upgrade. */
function wantedOf(tags: Tags, capacity: number): number {
  const begun = Number(tags[upgradeTag]);
  return begun >= 1 ? begun : Math.max(1, capacity);
}

function beginBody({ image, customData }: RollTarget, tags: Tags, wanted: number): object {
  const virtualMachineProfile = {
    osProfile: { customData },
    storageProfile: { imageReference: { id: image } },
  };
  return { tags: { ...tags, [upgradeTag]: `${wanted}` }, properties: { virtualMachineProfile } };
}

function endBody(tags: Tags): object {
  const { [upgradeTag]: _, ...others } = tags;
  return { tags: others };
}

/** Makes new machines start from the image, and returns the number of workers. Undefined: all of them do already. */
async function begin(rolling: Rolling, signal: AbortSignal): Promise<number | undefined> {
  const { capacity, tags } = await readScaleSet(rolling, signal);
  if (tags[upgradeTag] !== undefined) rolling.note("workers: continuing an upgrade");
  else if (!(await listMachines(rolling, signal)).some(isOldFor(rolling))) return undefined;
  const wanted = wantedOf(tags, capacity);
  const body = beginBody(rolling, tags, wanted);
  await require(changeScaleSet(rolling, body, signal), "change the image of the workers");
  return wanted;
}

/** Returns whether Azure has room. A machine that is needed must be had. */
async function grow(
  rolling: Rolling,
  { capacity, isNeeded }: { readonly capacity: number; readonly isNeeded: boolean },
  signal: AbortSignal,
): Promise<boolean> {
  const { sku } = await readScaleSet(rolling, signal);
  const result = await changeScaleSet(rolling, { sku: { ...sku, capacity } }, signal);
  if (result.ok) return true;
  if (isNeeded || !sizeProblems.has(result.code)) return await require(Promise.resolve(result), "add a machine");
  rolling.note(`workers: no room for one more machine, so each old one goes first: ${result.code}: ${result.message}`);
  return false;
}

async function waitUntilJoined(rolling: Rolling, machines: readonly Machine[], signal: AbortSignal): Promise<void> {
  const { operator, note, pollMs = defaultPollMs } = rolling;
  for (const deadline = performance.now() + joinTimeoutMs; ;) {
    const workers = await operator.listWorkers();
    const missing = machines.filter((machine) => {
      return !workers.some((worker) => worker.state === "up" && runsOn(worker, machine));
    });
    if (missing.length === 0) return;
    const hosts = missing.map(({ host }) => host).join(", ");
    if (performance.now() > deadline) {
      const message = `${hosts} did not join the fleet within ${joinTimeoutMs / 60_000} minutes: 'journalctl --unit opensandbox-worker' there says why. Run the command again to continue`;
      throw new SandboxError("timed_out", message);
    }
    note(`workers: waiting for ${hosts} to join`);
    await sleep(pollMs, undefined, { signal });
  }
}

/** Drains the worker of a machine, deletes the machine and removes the worker. */
async function retire(rolling: Rolling, machine: Machine, signal: AbortSignal): Promise<void> {
  const { operator, note } = rolling;
  const worker = await workerOn(rolling, machine);
  if (worker !== undefined) await drain(rolling, worker, machine, signal);
  note(`workers: deleting ${machine.host}`);
  await deleteMachine(rolling, machine.instanceId, signal);
  if (worker !== undefined && (await isSilent(rolling, worker, signal))) await operator.removeWorker(worker.id);
}

async function drain(rolling: Rolling, worker: RollingWorker, machine: Machine, signal: AbortSignal): Promise<void> {
  const { operator, note, pollMs = defaultPollMs } = rolling;
  const { id } = worker;
  if (!worker.draining) {
    if (worker.state === "silent") throw silentError(worker, machine);
    note(`workers: draining ${id} on ${machine.host}`);
    await operator.drainWorker(id);
  }
  let before = Number.POSITIVE_INFINITY;
  for (let deadline = performance.now() + stallTimeoutMs; ;) {
    const now = await workerOn(rolling, machine);
    // It was removed by another command after it was drained.
    if (now === undefined) return;
    if (!now.draining || now.left === undefined)
      throw new SandboxError("unavailable", `${id} is not being drained any longer. Run the command again to continue`);
    const { sandboxes, snapshots } = now.left;
    const left = sandboxes + snapshots;
    if (left === 0) return;
    if (now.state === "silent") throw silentError(worker, machine);
    if (left !== before) {
      note(`workers: ${sandboxes} sandboxes and ${snapshots} snapshots are left on ${id}`);
      deadline = performance.now() + stallTimeoutMs;
    } else if (performance.now() > deadline) {
      const message = `${id} has moved nothing for ${stallTimeoutMs / 60_000} minutes, and ${sandboxes} sandboxes and ${snapshots} snapshots are left: the server's log says why. Run the command again to continue`;
      throw new SandboxError("timed_out", message);
    }
    before = left;
    await sleep(pollMs, undefined, { signal });
  }
}

function silentError({ id }: RollingWorker, { host }: Machine): SandboxError {
  const message = `worker ${id} on ${host} does not answer, so it cannot be drained: repair its host, or stop it and run 'osb admin remove-worker --lost ${id}' on the server, then run the command again`;
  return new SandboxError("unavailable", message);
}

/** Waits until the server has noticed that a machine is gone. Returns whether the worker is still in the fleet. */
async function isSilent(
  { operator, note, pollMs = defaultPollMs }: Rolling,
  { id }: RollingWorker,
  signal: AbortSignal,
): Promise<boolean> {
  for (const deadline = performance.now() + silenceTimeoutMs; ;) {
    const worker = (await operator.listWorkers()).find((each) => each.id === id);
    if (worker?.state !== "up") return worker !== undefined;
    if (performance.now() > deadline) {
      // The autoscaling removes an empty worker later.
      note(`workers: ${id} still answers after its machine was deleted`);
      return false;
    }
    await sleep(pollMs, undefined, { signal });
  }
}

async function workerOn({ operator }: Rolling, machine: Machine): Promise<RollingWorker | undefined> {
  return (await operator.listWorkers()).find((worker) => runsOn(worker, machine));
}

async function require(sent: ReturnType<typeof changeScaleSet>, purpose: string): Promise<true> {
  const result = await sent;
  if (result.ok) return true;
  throw new SandboxError("unavailable", `cannot ${purpose}: ${result.code}: ${result.message}`);
}
