import { setTimeout as sleep } from "node:timers/promises";
import type { GuestClient } from "#guest/guest-client.ts";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { Host } from "#machine/host.ts";
import type { LiveMachine } from "#machine/live-machine.ts";

/** A probe that is answered within this time gives the guest's clock to within half of it. */
const quickMs = 20;

/** Leave a restored guest to its first commands for this long. */
const settleMs = 1000;

/** Give up after this many probes and keep the best answer. */
const maxProbes = 30;

/** Pause between probes, longer each time, so that two probes are not slow for the same reason. */
const pauseMs = { first: 100, last: 3000, times: 1.4 } as const;

/** Differences below the resolution of the two clocks. */
const grainMs = 2;

/**
 * Aligns a guest's clock, which was just set, to a few milliseconds. The clock is late by the delay of the message that
 * set it, which is long for a guest that has just been restored. The delay is measured as NTP does, while the guest is
 * in use. Settles when the clock is aligned; never rejects.
 */
export async function alignClock({ id, guest }: LiveMachine, host: Host): Promise<void> {
  try {
    await sleep(settleMs, undefined, { ref: false });
    let knownMs = Infinity;
    for (let question = 0; question < maxProbes && knownMs > quickMs / 2; question += 1) {
      if (question > 0) await sleep(pauseAfter(question), undefined, { ref: false });
      const { aheadMs, withinMs } = await compareClocks(guest);
      if (withinMs >= knownMs) continue;
      knownMs = withinMs;
      // The clock agrees within the precision of this answer.
      if (Math.abs(aheadMs) <= withinMs + grainMs) continue;
      await guest.call(methods.configure, { clockStepNanos: BigInt(Math.round(-aheadMs * 1e6)) }, deadline());
    }
  } catch (error) {
    // The machine has ended meanwhile.
    if (isSandboxError(error, "unavailable")) return;
    host.log("warn", "the clock of a guest could not be aligned", { machine: id, ...describeError(error) });
  }
}

/** The lead of the guest's clock over this host's. The true value is within `withinMs` of it. */
async function compareClocks(guest: GuestClient): Promise<{ readonly aheadMs: number; readonly withinMs: number }> {
  const asked = Date.now();
  const { clockUnixNanos } = await guest.call(methods.ping, {}, deadline());
  const answered = Date.now();
  // Agents of older snapshots do not report their clock.
  if (clockUnixNanos === 0n) return { aheadMs: 0, withinMs: 0 };
  const withinMs = (answered - asked) / 2;
  return { aheadMs: Number(clockUnixNanos) / 1e6 - (asked + answered) / 2, withinMs };
}

function pauseAfter(questions: number): number {
  const { first, last, times } = pauseMs;
  return Math.min(last, first * times ** (questions - 1));
}

function deadline(): AbortSignal {
  return AbortSignal.timeout(10_000);
}
