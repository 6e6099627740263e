import { setTimeout as sleep } from "node:timers/promises";
import type { GuestClient } from "#guest/guest-client.ts";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { Host } from "#machine/host.ts";
import type { LiveMachine } from "#machine/live-machine.ts";

/** An answer that was there and back in this time tells the guest's clock to half of it. */
const quickMs = 20;

/** The first commands come before: a guest that has just been restored has little time for anything else. */
const settleMs = 1000;

/** The fastest of so many answers has to do where none is quick. */
const maxProbes = 30;

/** Between questions, so that an answer is not slow for the same reason as the one before: longer each time. */
const pauseMs = { first: 100, last: 3000, times: 1.4 } as const;

/** What the two clocks' own steps can hide. */
const grainMs = 2;

/**
 * Puts the clock of a guest that was just told the time right to a few milliseconds. What it was told is late by as long
 * as the message was on its way, which is long for a guest that has just been restored: that is found out by asking
 * what time it is, as NTP does, while the guest is used already. Settles when that is done; never rejects.
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
      // What is right as far as this answer can tell stays.
      if (Math.abs(aheadMs) <= withinMs + grainMs) continue;
      await guest.call(methods.configure, { clockStepNanos: BigInt(Math.round(-aheadMs * 1e6)) }, deadline());
    }
  } catch (error) {
    // A machine that has ended meanwhile needs no clock.
    if (isSandboxError(error, "unavailable")) return;
    host.log("warn", "the clock of a guest stays as it was told", { machine: id, ...describeError(error) });
  }
}

/** How far the guest's clock is ahead of this host's; the truth is within `withinMs` of it. */
async function compareClocks(guest: GuestClient): Promise<{ readonly aheadMs: number; readonly withinMs: number }> {
  const asked = Date.now();
  const { clockUnixNanos } = await guest.call(methods.ping, {}, deadline());
  const answered = Date.now();
  // The agent of an older snapshot does not tell.
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
