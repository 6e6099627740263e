import { isDeepStrictEqual } from "node:util";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { failpoint } from "#host/failpoints.ts";
import type { Host } from "../host.ts";
import { waitForMemory } from "./hotplug.ts";
import { limitMemoryOf, limitProcessorsOf } from "../limits/machine-limits.ts";
import type { LiveMachine } from "../live-machine.ts";
import type { GuestShape } from "#snapshots/manifest.ts";

/** The parts of a request that a machine is brought to after its start. */
export type SandboxShape = Pick<StartSandbox, "vcpus" | "memoryMib" | "workspaceMib" | "cpuPercent" | "maxPids">;

/** From this protocol version on an agent takes a shape. */
const reshapingVersion = 3;

/** Deadline of the guest for its part. The file system of the largest workspace takes seconds under emulation. */
const guestTimeoutMs = 120_000;

/** What a guest has to take once its machine runs, in MiB. Zero: nothing. */
export interface Offered {
  readonly workspaceMib: number;
  /** Memory beyond the first memory of the machine. */
  readonly hotplugMib: number;
}

/**
 * Prepares a machine for the shape of its sandbox, which may be larger than that of the template or snapshot that it was
 * restored from. The guest takes the shape once it runs: {@link offerShape} and {@link reshapeGuest}.
 */
export async function reshapeMachine(live: LiveMachine, shape: SandboxShape, host: Host): Promise<Offered> {
  const workspaceMib = recordWorkspace(live, shape.workspaceMib);
  const hotplugMib = await offerMemory(live, shape.memoryMib, host);
  live.limits = limitsOf(live, shape);
  await limitProcessorsOf(live, shape);
  return { workspaceMib, hotplugMib };
}

/** Processors that a guest needs for the processor time of its sandbox. Pure. */
export function processorsOf({ vcpus, cpuPercent = 100 * vcpus }: Pick<SandboxShape, "vcpus" | "cpuPercent">): number {
  return Math.ceil(cpuPercent / 100);
}

/**
 * Enlarges the workspace's disk as far as {@link reshapeMachine} has recorded, and returns the request by which the guest
 * takes the shape. Undefined: it has the shape already. The machine runs: QEMU refuses to change a disk between a restore
 * and the start of the vCPUs.
 */
export async function offerShape(
  live: LiveMachine,
  wanted: SandboxShape,
  { workspaceMib, hotplugMib }: Offered,
): Promise<ShapeRequest | undefined> {
  if (workspaceMib > 0) await enlargeWorkspace(live, workspaceMib);
  const processors = processorsOf(wanted);
  const isTaken = isDeepStrictEqual(live.guestShape, guestShapeOf(live, processors));
  if (workspaceMib === 0 && hotplugMib === 0 && isTaken) return undefined;
  // Unknown until the guest has confirmed.
  live.guestShape = undefined;
  return shapeRequest(live, { processors, workspaceBytes: BigInt(workspaceMib) * 2n ** 20n });
}

/**
 * Waits for the memory that {@link reshapeMachine} has offered, and lets the guest take the rest of its shape. `shape` is
 * the result of {@link offerShape}; `isTaken` says whether the guest has taken it. Repeating it does no harm.
 * @throws `not_supported` for limits that the agent of an older snapshot cannot set
 */
export async function reshapeGuest(
  live: LiveMachine,
  shape: ShapeRequest | undefined,
  { hotplugMib }: Offered,
  isTaken: boolean,
  signal: AbortSignal,
): Promise<void> {
  if (shape === undefined) return;
  const until = AbortSignal.any([signal, AbortSignal.timeout(guestTimeoutMs)]);
  const { vm } = live;
  await failpoint("reshape guest");
  if (vm.hotplug !== undefined && hotplugMib > 0 && !(await waitForMemory(vm.hotplug, hotplugMib, until))) {
    const message = `the guest does not take the ${hotplugMib} MiB of memory beyond its first ${live.shape.memoryMib} MiB`;
    throw new SandboxError("unavailable", message);
  }
  // The limits of commands follow the memory that the guest has, so hotplugged memory needs a call of its own.
  if (!isTaken || hotplugMib > 0) await takeShape(live, shape, until);
  else live.guestShape = guestShapeOf(live, shape.processors);
}

/** Sets the processors of the guest and the limits of its commands, which follow the memory that it has now. */
export async function limitGuest(live: LiveMachine, processors: number, signal: AbortSignal): Promise<void> {
  live.guestShape = undefined;
  await takeShape(live, shapeRequest(live, { processors, workspaceBytes: 0n }), signal);
}

/** The parts of a shape that the guest itself brings about. */
interface ShapeRequest {
  readonly processors: number;
  readonly workspaceBytes: bigint;
  readonly limits: { readonly memoryBytes: bigint; readonly cpuPercent: number; readonly maxPids: number };
}

function shapeRequest(
  { limits }: LiveMachine,
  { processors, workspaceBytes }: Pick<ShapeRequest, "processors" | "workspaceBytes">,
): ShapeRequest {
  const { memoryMib = 0, cpuPercent = 0, maxPids = 0 } = limits;
  const memoryBytes = BigInt(memoryMib) * 2n ** 20n;
  return { processors, workspaceBytes, limits: { memoryBytes, cpuPercent, maxPids } };
}

function guestShapeOf({ limits }: LiveMachine, processors: number): GuestShape {
  const { memoryMib = 0, cpuPercent = 0, maxPids = 0 } = limits;
  return { processors, memoryMib, cpuPercent, maxPids };
}

async function takeShape(live: LiveMachine, request: ShapeRequest, signal: AbortSignal): Promise<void> {
  const { guest, shape } = live;
  const { processors, limits } = request;
  if (await takesShape({ guest }, signal)) {
    await guest.call(methods.reshape, request, signal);
    live.guestShape = guestShapeOf(live, processors);
    return;
  }
  const hasLimits = limits.memoryBytes > 0n || limits.cpuPercent > 0 || limits.maxPids > 0;
  if (hasLimits || processors !== shape.vcpus) {
    const message = "the guest agent of this sandbox's snapshot cannot limit its commands: create a new sandbox";
    throw new SandboxError("not_supported", message);
  }
  await guest.call(methods.fitMemory, {}, signal);
}

/** Whether the guest's agent has the method `reshape`. */
export async function takesShape({ guest }: Pick<LiveMachine, "guest">, signal: AbortSignal): Promise<boolean> {
  return (await guest.ready(signal)).protocolVersion >= reshapingVersion;
}

/** The limits of commands that are below what the machine has. Pure. */
export function limitsOf(live: LiveMachine, { memoryMib, cpuPercent, maxPids }: SandboxLimits): LiveMachine["limits"] {
  return { memoryMib: memoryMib < live.shape.memoryMib ? memoryMib : undefined, cpuPercent, maxPids };
}

type SandboxLimits = Omit<SandboxShape, "workspaceMib">;

const workspaceDisk = "workspace";

/** Records the size of the workspace in the machine's layers. Returns it in MiB, or 0 when the workspace stays. */
function recordWorkspace(live: LiveMachine, workspaceMib: number): number {
  if (workspaceMib <= live.shape.workspaceMib) return 0;
  live.layers.enlarge(workspaceDisk, workspaceMib * 2 ** 20);
  live.shape = { ...live.shape, workspaceMib };
  return workspaceMib;
}

async function enlargeWorkspace({ id, vm, layers }: LiveMachine, workspaceMib: number): Promise<void> {
  await failpoint("enlarge workspace");
  if (vm.enlargeDisk === undefined) throw new Error(`the disks of machine ${id} keep their size`);
  await vm.enlargeDisk(layers.topOf(workspaceDisk), workspaceMib * 2 ** 20);
}

/** Returns the hotplugged memory to come in MiB, or 0 when the memory stays. */
async function offerMemory(live: LiveMachine, memoryMib: number, host: Host): Promise<number> {
  const { hotplug } = live.vm;
  const hotplugMib = memoryMib - live.shape.memoryMib;
  if (hotplug === undefined || hotplugMib <= 0) return 0;
  if ((await hotplug.state()).requestedMib >= hotplugMib) return 0;
  await failpoint("offer memory");
  // Before the guest uses the first new page.
  await limitMemoryOf(live, memoryMib, host);
  await hotplug.request(hotplugMib);
  return hotplugMib;
}
