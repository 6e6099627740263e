import { closeSync, readSync } from "node:fs";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import { execPipes } from "@opensandbox/wire/guest/methods.ts";
import type { RunningCommand } from "./command.ts";
import type { ExitStatus } from "./reaper.ts";

/** A command that has ended soon, with all that it wrote. Its pipes are closed. */
export interface QuickOutcome {
  readonly status: ExitStatus;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  /** In milliseconds since 1970. */
  readonly endedMs: number;
}

/** A command that is younger need not be listened to: nobody notices so short a delay, and the pipes hold 64 KiB. */
const youngMs = 50;

/**
 * Most commands are short. One that ends while it is young is read in one go: the streams, timers and messages of a long
 * one would be the larger part of what it costs. Undefined: it goes on, and is to be listened to; so must be one with a
 * timeout as short, or with input.
 */
export async function quickOutcome(
  { stdio, ended }: RunningCommand,
  timeoutMs: number,
): Promise<QuickOutcome | undefined> {
  if ("terminal" in stdio || stdio.stdin !== undefined) return undefined;
  if (timeoutMs > 0 && timeoutMs <= youngMs) return undefined;
  const status = await Promise.race([ended, noLongerYoung()]);
  if (status === undefined) return undefined;
  return { status, stdout: takeAll(stdio.stdout), stderr: takeAll(stdio.stderr), endedMs: Date.now() };
}

/** Its output, to who waits for it. */
export async function sendOutput({ stdout, stderr }: QuickOutcome, stream: Stream): Promise<void> {
  if (stdout.length > 0) await stream.pushData(execPipes.stdout, stdout);
  if (stderr.length > 0) await stream.pushData(execPipes.stderr, stderr);
}

/** Settles when those who came since the last tick, and those before them, are young no longer. */
let newest: PromiseWithResolvers<undefined> | undefined;
let older: PromiseWithResolvers<undefined> | undefined;

/** One timer for all who are young at the same time: none of them is told too early, some after twice as long. */
function noLongerYoung(): Promise<undefined> {
  if (newest === undefined) {
    newest = Promise.withResolvers();
    if (older === undefined) setTimeout(tick, youngMs);
  }
  return newest.promise;
}

function tick(): void {
  older?.resolve(undefined);
  older = newest;
  newest = undefined;
  if (older !== undefined) setTimeout(tick, youngMs);
}

// One for all: what is read is copied.
const buffer = Buffer.alloc(64 * 1024);
/** A pipe may hold more than the buffer, but not so much: who goes on writing is a child that the command has left. */
const maxReads = 64;

function takeAll(pipe: number): Uint8Array {
  const parts: Uint8Array[] = [];
  for (let reads = 0; reads < maxReads; reads += 1) {
    const length = read(pipe);
    if (length > 0) parts.push(new Uint8Array(buffer.subarray(0, length)));
    // A read takes all there is, as far as it fits.
    if (length < buffer.length) break;
  }
  closeSync(pipe);
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}

function read(pipe: number): number {
  try {
    return readSync(pipe, buffer);
  } catch (error) {
    // Somebody still has it open and has written nothing.
    if ((error as NodeJS.ErrnoException).code === "EAGAIN") return 0;
    throw error;
  }
}
