import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { Scaled } from "@opensandbox/wire/worker/worker.ts";
import type { MemoryHotplug } from "#hypervisor/hypervisor.ts";
import { admit, hostRoom } from "#host/admission.ts";
import type { Host } from "#machine/host.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import type { LiveSandbox } from "./live-sandbox.ts";
import { journalMachine } from "#machine/journal.ts";

/** How often the guest is looked at while it takes or gives memory. */
const lookMs = 50;

/** A guest that has not moved for so long does not move any more. Under emulation a block of 128 MiB takes a second. */
const standstillMs = 30_000;

/** Of its new size, what a guest must have to spare after it has given memory back. */
const spareShare = 0.1;

/**
 * Gives the guest more memory, or takes some back, while it runs. What it cannot do without stays: then nothing has
 * changed. @throws `invalid_argument` for a size that its machine cannot have, `no_capacity` when the host has no room
 */
export async function scaleSandbox(
  sandbox: LiveSandbox,
  memoryMib: number,
  host: Host,
  signal: AbortSignal,
): Promise<Scaled> {
  const { live, request } = sandbox;
  const { hotplug } = live.vm;
  if (hotplug === undefined) {
    const message = `machines of ${host.hypervisor.name} keep the memory that they were created with`;
    throw new SandboxError("not_supported", message);
  }
  const wantedMib = memoryMib - live.shape.memoryMib;
  requirePossible(memoryMib, live);
  const before = await hotplug.state();
  if (wantedMib > before.requestedMib) admit(await hostRoom(host.dataDirectory), wantedMib - before.requestedMib);
  const lessMib = before.presentMib - wantedMib;
  if (lessMib > 0) {
    const { availableBytes } = await live.guest.call(methods.fitMemory, {}, signal);
    const spareMib = Number(availableBytes) / 2 ** 20 - lessMib;
    if (spareMib < memoryMib * spareShare) {
      return { done: false, because: `its commands use too much of its ${request.memoryMib} MiB` };
    }
  }
  if (!(await reach(hotplug, { from: before.requestedMib, to: wantedMib }, signal))) {
    if (lessMib > 0) return { done: false, because: "its kernel cannot move what is in the memory to be given back" };
    throw new SandboxError("unavailable", "the guest does not take the memory that it is given");
  }
  await live.guest.call(methods.fitMemory, {}, signal);
  sandbox.request = { ...request, memoryMib };
  await journalMachine(live, sandbox.request, host);
  return { done: true };
}

function requirePossible(memoryMib: number, { shape, spec }: LiveMachine): void {
  const [least, most] = [shape.memoryMib, shape.memoryMib + spec.hotplugMib];
  if (memoryMib >= least && memoryMib <= most) return;
  const message =
    `memoryMB must be from ${least}, which the sandbox's machine began with, to ${most}: ` +
    "for another size create or fork a sandbox";
  throw new SandboxError("invalid_argument", message);
}

/** Whether the guest came to have what it is asked to have; where it did not it is asked for what it had before. */
async function reach(
  hotplug: MemoryHotplug,
  { from, to }: { readonly from: number; readonly to: number },
  signal: AbortSignal,
): Promise<boolean> {
  signal.throwIfAborted();
  await using undo = new AsyncDisposableStack();
  undo.defer(() => hotplug.request(from));
  await hotplug.request(to);
  let since = performance.now();
  for (let last: number | undefined; performance.now() - since < standstillMs;) {
    const { presentMib } = await hotplug.state();
    if (presentMib === to) {
      undo.move();
      return true;
    }
    if (presentMib !== last) since = performance.now();
    last = presentMib;
    await sleep(lookMs, undefined, { signal });
  }
  return false;
}
