import { isDeepStrictEqual } from "node:util";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { failpoint } from "#host/failpoints.ts";
import type { Host } from "../host.ts";
import { waitForMemory } from "./hotplug.ts";
import { limitMemoryOf, limitProcessorsOf } from "../limits/machine-limits.ts";
import type { LiveMachine } from "../live-machine.ts";

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
 * restored from. The guest takes the shape once it runs: {@link reshapeGuest}.
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
 * Lets the guest take what {@link reshapeMachine} has offered, and sets its processors and the limits of its commands. A
 * guest that has the shape already is not asked. The machine runs, and its agent answers. Repeating it does no harm.
 * @throws `not_supported` for limits that the agent of an older snapshot cannot set
 */
export async function reshapeGuest(
  live: LiveMachine,
  wanted: SandboxShape,
  { workspaceMib, hotplugMib }: Offered,
  signal: AbortSignal,
): Promise<void> {
  const processors = processorsOf(wanted);
  if (workspaceMib === 0 && hotplugMib === 0 && hasConfirmed(live, processors)) return;
  const until = AbortSignal.any([signal, AbortSignal.timeout(guestTimeoutMs)]);
  const { vm, shape } = live;
  // QEMU refuses to change a disk between a restore and the start of the vCPUs.
  if (workspaceMib > 0) await enlargeWorkspace(live, workspaceMib);
  await failpoint("reshape guest");
  if (vm.hotplug !== undefined && hotplugMib > 0 && !(await waitForMemory(vm.hotplug, hotplugMib, until))) {
    const message = `the guest does not take the ${hotplugMib} MiB of memory beyond its first ${shape.memoryMib} MiB`;
    throw new SandboxError("unavailable", message);
  }
  await limitGuest(live, { workspaceBytes: BigInt(workspaceMib) * 2n ** 20n, processors }, until);
}

/** Sets the processors of the guest and the limits of its commands, which follow the memory that it has now. */
export async function limitGuest(
  live: LiveMachine,
  { workspaceBytes = 0n, processors }: { readonly workspaceBytes?: bigint; readonly processors: number },
  signal: AbortSignal,
): Promise<void> {
  const { guest, limits, shape } = live;
  const { memoryMib = 0, cpuPercent = 0, maxPids = 0 } = limits;
  live.guestShape = undefined;
  if (!(await takesShape({ guest }, signal))) {
    if (memoryMib > 0 || cpuPercent > 0 || maxPids > 0 || processors !== shape.vcpus) {
      const message = "the guest agent of this sandbox's snapshot cannot limit its commands: create a new sandbox";
      throw new SandboxError("not_supported", message);
    }
    await guest.call(methods.fitMemory, {}, signal);
    return;
  }
  const memoryBytes = BigInt(memoryMib) * 2n ** 20n;
  const request = { workspaceBytes, processors, limits: { memoryBytes, cpuPercent, maxPids } };
  await guest.call(methods.reshape, request, signal);
  live.guestShape = { processors, memoryMib, cpuPercent, maxPids };
}

/** Whether the guest already has these processors and the machine's limits. */
function hasConfirmed({ guestShape, limits }: LiveMachine, processors: number): boolean {
  const { memoryMib = 0, cpuPercent = 0, maxPids = 0 } = limits;
  return isDeepStrictEqual(guestShape, { processors, memoryMib, cpuPercent, maxPids });
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
