import { SandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { Scaled, SandboxSize, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import type { MemoryHotplug } from "#hypervisor/hypervisor.ts";
import type { Host } from "#machine/host.ts";
import { waitForMemory } from "#machine/shape/hotplug.ts";
import { limitMemoryOf, limitProcessorsOf } from "#machine/limits/machine-limits.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import { limitGuest, limitsOf, processorsOf, takesShape } from "#machine/shape/reshape-machine.ts";
import type { LiveSandbox } from "./live-sandbox.ts";
import { promiseMemory, type Reserve } from "./take-turn.ts";
import { journalMachine } from "#machine/journal.ts";

/** Share of its new size that a guest must have free after it has returned memory. */
const minFreeShare = 0.1;

/**
 * Changes the size of a sandbox while it runs. Memory beyond the first memory of its machine is added and removed; below
 * that the guest limits its commands. Memory that the guest needs stays: then nothing has changed, and the result says
 * why.
 * @throws `invalid_argument` for a size that the machine cannot have, `no_capacity` when the host has no memory for it,
 * `not_supported` for a change that the hypervisor or the agent of an older snapshot cannot make
 */
export async function scaleSandbox(
  sandbox: LiveSandbox,
  size: SandboxSize,
  host: Host,
  ready: Reserve,
  signal: AbortSignal,
): Promise<Scaled> {
  const { live, request: present } = sandbox;
  const { memoryMib, cpuPercent = present.cpuPercent, maxPids = present.maxPids } = size;
  const request: StartSandbox = { ...present, memoryMib, cpuPercent, maxPids };
  requirePossible(request, live, host);
  const resized = await resizeMemory(live, { from: present.memoryMib, to: memoryMib }, host, ready, signal);
  if (!resized.done) return resized;
  await limitProcessorsOf(live, request);
  live.limits = limitsOf(live, request);
  await limitGuest(live, processorsOf(request), signal);
  sandbox.request = request;
  await journalMachine(live, request, host);
  return { done: true };
}

function requirePossible({ memoryMib, cpuPercent }: StartSandbox, live: LiveMachine, host: Host): void {
  const { shape, spec, vm } = live;
  const maxPercent = 100 * shape.vcpus;
  if (cpuPercent !== undefined && (cpuPercent < 100 || cpuPercent > maxPercent)) {
    const message = `cpuPercent must be from 100 to ${maxPercent}: the sandbox's machine has ${shape.vcpus} vCPUs`;
    throw new SandboxError("invalid_argument", message);
  }
  if (memoryMib <= shape.memoryMib) return;
  if (vm.hotplug === undefined) {
    const message = `machines of the hypervisor ${host.hypervisor.name} keep the memory that they were created with`;
    throw new SandboxError("not_supported", message);
  }
  const maxMib = shape.memoryMib + spec.hotplugMib;
  if (memoryMib <= maxMib) return;
  const message = `memoryMB must be at most ${maxMib} for this sandbox's machine: for another size create or fork a sandbox`;
  throw new SandboxError("invalid_argument", message);
}

/** Adds memory to the machine, or removes some unless the guest needs it. */
async function resizeMemory(
  live: LiveMachine,
  { from: presentMib, to: memoryMib }: { readonly from: number; readonly to: number },
  host: Host,
  ready: Reserve,
  signal: AbortSignal,
): Promise<Scaled> {
  const firstMib = live.shape.memoryMib;
  const hotplugMib = Math.max(0, memoryMib - firstMib);
  const { hotplug } = live.vm;
  const before = (await hotplug?.state()) ?? { requestedMib: 0, presentMib: 0 };
  const addedMib = hotplugMib - before.requestedMib;
  using _promised = addedMib > 0 ? await promiseMemory(addedMib, host.admission, ready) : undefined;
  // Before the guest uses the first new page.
  if (addedMib > 0) await limitMemoryOf(live, memoryMib, host);
  const returnedMib = before.presentMib - hotplugMib;
  if (memoryMib < presentMib || returnedMib > 0) {
    const { availableMib, neededMib } = await memoryOf(live, signal);
    const isTight = returnedMib > 0 && availableMib - returnedMib < memoryMib * minFreeShare;
    if (isTight || neededMib > memoryMib * (1 - minFreeShare)) {
      return { done: false, because: `its commands use too much of its ${presentMib} MiB` };
    }
  }
  if (hotplug !== undefined && !(await reach(hotplug, { from: before.requestedMib, to: hotplugMib }, signal))) {
    await limitMemoryOf(live, firstMib + before.requestedMib, host);
    if (returnedMib > 0)
      return { done: false, because: "its kernel cannot move the content of the memory that it would return" };
    throw new SandboxError(
      "unavailable",
      "the guest does not take the memory that it was offered; its size is unchanged",
    );
  }
  if (returnedMib > 0) await limitMemoryOf(live, firstMib + hotplugMib, host);
  return { done: true };
}

/** Memory that commands can still get, and memory of theirs that the kernel cannot reclaim. */
async function memoryOf(
  live: LiveMachine,
  signal: AbortSignal,
): Promise<{ readonly availableMib: number; readonly neededMib: number }> {
  const mib = (bytes: bigint | undefined): number => Number(bytes ?? 0n) / 2 ** 20;
  if (await takesShape(live, signal)) {
    const { memory, neededBytes } = await live.guest.call(methods.reshape, {}, signal);
    return { availableMib: mib(memory?.availableBytes), neededMib: mib(neededBytes) };
  }
  const { availableBytes } = await live.guest.call(methods.fitMemory, {}, signal);
  return { availableMib: mib(availableBytes), neededMib: 0 };
}

/** Whether the guest reached the requested size. If it did not, the earlier size is requested again. */
async function reach(
  hotplug: MemoryHotplug,
  { from, to }: { readonly from: number; readonly to: number },
  signal: AbortSignal,
): Promise<boolean> {
  signal.throwIfAborted();
  await using undo = new AsyncDisposableStack();
  undo.defer(() => hotplug.request(from));
  await hotplug.request(to);
  const isReached = await waitForMemory(hotplug, to, signal);
  if (isReached) undo.move();
  return isReached;
}
