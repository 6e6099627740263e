import { setImmediate } from "node:timers/promises";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { alignClock } from "#guest/align-clock.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Host } from "#machine/host.ts";
import { introduceGuest } from "#machine/introduce-guest.ts";
import { offerShape, reshapeGuest, reshapeMachine } from "#machine/shape/reshape-machine.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import type { LiveSandbox } from "./live-sandbox.ts";
import { applyNetworkPolicy } from "./network-policy.ts";
import { bootAgain } from "#machine/start-machine.ts";
import { journalMachine } from "#machine/journal.ts";

/** Deadline for the guest to write its dirty pages before its machine ends. */
const syncTimeoutMs = 30_000;

/** Boots the guest's kernel again, after the guest has written its dirty pages. */
export async function rebootSandbox(sandbox: LiveSandbox, host: Host, signal: AbortSignal): Promise<void> {
  const { live, request } = sandbox;
  const until = AbortSignal.any([signal, AbortSignal.timeout(syncTimeoutMs)]);
  try {
    await live.guest.call(methods.sync, {}, until);
  } catch (error) {
    signal.throwIfAborted();
    // A guest that does not answer is rebooted too: such a guest needs the reboot most.
    const message = "the guest did not sync its disks before the reboot; its last writes may be lost";
    host.log("warn", message, { sandbox: request.id, ...describeError(error) });
  }
  await powerCycleSandbox(sandbox, host, signal);
}

/**
 * Ends the machine's process, if it still runs, and boots a new one on its disks. A machine that ends while it boots is
 * booted once more: the disks are whole, and the caller has no other way to the sandbox.
 */
export async function powerCycleSandbox(sandbox: LiveSandbox, host: Host, signal: AbortSignal): Promise<void> {
  try {
    await bootOnce(sandbox, host, signal);
  } catch (error) {
    if (signal.aborted || !(await hasEnded(sandbox.live))) throw error;
    const machine = { sandbox: sandbox.request.id, machine: sandbox.live.id };
    host.log("warn", "a machine ended while it booted: it boots once more", { ...machine, ...describeError(error) });
    await bootOnce(sandbox, host, signal);
  }
}

/** Whether the machine's process has ended by itself. */
async function hasEnded(live: LiveMachine): Promise<boolean> {
  if (!live.hasProcess) return false;
  return await Promise.race([live.vm.exited.then(({ reason }) => reason !== "killed"), setImmediate(false)]);
}

async function bootOnce(sandbox: LiveSandbox, host: Host, signal: AbortSignal): Promise<void> {
  const { live, request } = sandbox;
  await bootAgain(live, request.memoryMib, host, signal);
  await applyNetworkPolicy(live, request, host);
  sandbox.watch();
  await journalMachine(live, request, host);
  const offered = await reshapeMachine(live, request, host);
  const shape = await offerShape(live, request, offered);
  const { id, envs, secrets } = request;
  const isTaken = await introduceGuest(live, { id, envs, copied: false, shape, secrets }, "boot", host, signal);
  await reshapeGuest(live, shape, offered, isTaken, signal);
  void alignClock(live, host);
}
