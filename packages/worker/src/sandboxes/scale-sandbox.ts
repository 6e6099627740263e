import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { Scaled } from "@opensandbox/wire/worker/worker.ts";
import type { MemoryHotplug } from "#hypervisor/hypervisor.ts";
import type { Host } from "#machine/host.ts";
import { limitMemoryOf } from "#machine/limits/machine-limits.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import type { LiveSandbox } from "./live-sandbox.ts";
import { journalMachine } from "#machine/journal.ts";

/** How often the guest's memory is polled while it changes. */
const pollMs = 50;

/** Without progress for this long a resize has failed. Under emulation a block of 128 MiB takes a second. */
const standstillMs = 30_000;

/** Share of its new size that a guest must have free after it has returned memory. */
const minFreeShare = 0.1;

/**
 * Resizes the guest's memory while it runs. Memory that the guest needs stays: then nothing has changed, and the result
 * says why.
 * @throws `invalid_argument` for a size that the machine cannot have, `no_capacity` when the host has no memory for it
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
    const message = `machines of the hypervisor ${host.hypervisor.name} keep the memory that they were created with`;
    throw new SandboxError("not_supported", message);
  }
  const hotplugMib = memoryMib - live.shape.memoryMib;
  requirePossible(memoryMib, live);
  const before = await hotplug.state();
  const addedMib = hotplugMib - before.requestedMib;
  using _promised = addedMib > 0 ? await host.admission.admit(addedMib) : undefined;
  // Before the guest uses the first new page.
  if (addedMib > 0) await limitMemoryOf(live, memoryMib, host);
  const returnedMib = before.presentMib - hotplugMib;
  if (returnedMib > 0) {
    const { availableBytes } = await live.guest.call(methods.fitMemory, {}, signal);
    const spareMib = Number(availableBytes) / 2 ** 20 - returnedMib;
    if (spareMib < memoryMib * minFreeShare) {
      return { done: false, because: `its commands use too much of its ${request.memoryMib} MiB` };
    }
  }
  if (!(await reach(hotplug, { from: before.requestedMib, to: hotplugMib }, signal))) {
    await limitMemoryOf(live, live.shape.memoryMib + before.requestedMib, host);
    if (returnedMib > 0)
      return { done: false, because: "its kernel cannot move the content of the memory that it would return" };
    throw new SandboxError(
      "unavailable",
      "the guest does not take the memory that it was offered; its size is unchanged",
    );
  }
  await live.guest.call(methods.fitMemory, {}, signal);
  if (returnedMib > 0) await limitMemoryOf(live, memoryMib, host);
  sandbox.request = { ...request, memoryMib };
  await journalMachine(live, sandbox.request, host);
  return { done: true };
}

function requirePossible(memoryMib: number, { shape, spec }: LiveMachine): void {
  const [min, max] = [shape.memoryMib, shape.memoryMib + spec.hotplugMib];
  if (memoryMib >= min && memoryMib <= max) return;
  const message =
    `memoryMB must be from ${min}, which the sandbox's machine booted with, to ${max}: ` +
    "for another size create or fork a sandbox";
  throw new SandboxError("invalid_argument", message);
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
  let since = performance.now();
  for (let last: number | undefined; performance.now() - since < standstillMs;) {
    const { presentMib } = await hotplug.state();
    if (presentMib === to) {
      undo.move();
      return true;
    }
    if (presentMib !== last) since = performance.now();
    last = presentMib;
    await sleep(pollMs, undefined, { signal });
  }
  return false;
}
