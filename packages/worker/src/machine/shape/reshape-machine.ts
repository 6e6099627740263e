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

/** What a guest has to take once its machine runs. Zero: nothing. */
export interface Offered {
  readonly workspaceMib: number;
  /** Memory beyond the first memory of the machine. */
  readonly hotplugMib: number;
  /** How many processors are to be online. */
  readonly processors: number;
  readonly hasLimits: boolean;
}

/**
 * Prepares a machine for the shape of its sandbox, which may be larger than that of the template or snapshot that it was
 * restored from. It takes the shape once it runs: {@link reshapeGuest}. `onlineProcessors`: how many the guest has online;
 * undefined: unknown.
 */
export async function reshapeMachine(
  live: LiveMachine,
  shape: SandboxShape,
  host: Host,
  onlineProcessors: number | undefined,
): Promise<Offered> {
  const workspaceMib = recordWorkspace(live, shape.workspaceMib);
  const hotplugMib = await offerMemory(live, shape.memoryMib, host);
  live.limits = limitsOf(live, shape);
  await limitProcessorsOf(live, shape);
  const wanted = processorsOf(shape);
  const processors = wanted === onlineProcessors ? 0 : wanted;
  const hasLimits = Object.values(live.limits).some((limit) => limit !== undefined);
  return { workspaceMib, hotplugMib, processors, hasLimits };
}

/** Whether the guest can stay as it is. */
export function isNothing(offered: Offered): boolean {
  return !takesMore(offered) && offered.processors === 0 && !offered.hasLimits;
}

/** Whether the guest must take a larger disk or more memory. */
export function takesMore({ workspaceMib, hotplugMib }: Offered): boolean {
  return workspaceMib > 0 || hotplugMib > 0;
}

/** Processors that a guest needs for the processor time of its sandbox. Pure. */
export function processorsOf({ vcpus, cpuPercent = 100 * vcpus }: Pick<SandboxShape, "vcpus" | "cpuPercent">): number {
  return Math.ceil(cpuPercent / 100);
}

/**
 * Lets the guest take what {@link reshapeMachine} has offered, and limits its commands. The machine runs, and its agent
 * answers. Repeating it does no harm.
 * @throws `not_supported` for limits that the agent of an older snapshot cannot set
 */
export async function reshapeGuest(live: LiveMachine, offered: Offered, signal: AbortSignal): Promise<void> {
  const until = AbortSignal.any([signal, AbortSignal.timeout(guestTimeoutMs)]);
  const { vm, shape } = live;
  const { workspaceMib, hotplugMib, processors } = offered;
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
  const { guest, limits, shape, guestShape: before } = live;
  const { memoryMib = 0, cpuPercent = 0, maxPids = 0 } = limits;
  live.guestShape = undefined;
  if (!(await takesShape({ guest }, signal))) {
    if (memoryMib > 0 || cpuPercent > 0 || maxPids > 0 || ![0, shape.vcpus].includes(processors)) {
      const message = "the guest agent of this sandbox's snapshot cannot limit its commands: create a new sandbox";
      throw new SandboxError("not_supported", message);
    }
    await guest.call(methods.fitMemory, {}, signal);
    return;
  }
  const memoryBytes = BigInt(memoryMib) * 2n ** 20n;
  const request = { workspaceBytes, processors, limits: { memoryBytes, cpuPercent, maxPids } };
  await guest.call(methods.reshape, request, signal);
  const online = processors === 0 ? before?.processors : processors;
  live.guestShape = online === undefined ? undefined : { processors: online, memoryMib, cpuPercent, maxPids };
}

/** Whether the guest has already confirmed the processors and limits of this shape. */
export function hasConfirmed({ guestShape, limits }: LiveMachine, shape: SandboxShape): boolean {
  const { memoryMib = 0, cpuPercent = 0, maxPids = 0 } = limits;
  return isDeepStrictEqual(guestShape, { processors: processorsOf(shape), memoryMib, cpuPercent, maxPids });
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
