import { closeSync, readSync } from "node:fs";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import { execPipes } from "@opensandbox/wire/guest/methods.ts";
import type { RunningCommand } from "./command.ts";
import type { ExitStatus } from "./reaper.ts";

/** A command that ended quickly, with all of its output. Its pipes are closed. */
export interface QuickOutcome {
  readonly status: ExitStatus;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  /** End of the command, in milliseconds since 1970. */
  readonly endedMs: number;
}

/** The output of a younger command waits in its pipes, which hold 64 KiB: the delay is too short to notice. */
const youngMs = 50;

/**
 * The outcome of a command that ends while it is young, read in one go: the streams, timers and messages of a long command
 * would cost more than a short one itself. Undefined when the command runs on and has to be streamed, and always for one
 * with input, a terminal or a timeout as short.
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

/** Sends the output of a command that has ended. */
export async function sendOutput({ stdout, stderr }: QuickOutcome, stream: Stream): Promise<void> {
  if (stdout.length > 0) await stream.pushData(execPipes.stdout, stdout);
  if (stderr.length > 0) await stream.pushData(execPipes.stderr, stderr);
}

/** Commands since the last tick, and those of the previous tick. */
let newest: PromiseWithResolvers<undefined> | undefined;
let older: PromiseWithResolvers<undefined> | undefined;

/** Settles when a command is no longer young. One timer serves all waits: none ends early, some take twice as long. */
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

// Shared: each read is copied.
const buffer = Buffer.alloc(64 * 1024);
/** A pipe holds less than this many buffers: a longer one is fed by a process that the command left behind. */
const maxReads = 64;

function takeAll(pipe: number): Uint8Array {
  const parts: Uint8Array[] = [];
  for (let reads = 0; reads < maxReads; reads += 1) {
    const length = read(pipe);
    if (length > 0) parts.push(new Uint8Array(buffer.subarray(0, length)));
    // One read takes everything that fits into the buffer.
    if (length < buffer.length) break;
  }
  closeSync(pipe);
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}

function read(pipe: number): number {
  try {
    return readSync(pipe, buffer);
  } catch (error) {
    // Another process holds the pipe open and has written nothing.
    if ((error as NodeJS.ErrnoException).code === "EAGAIN") return 0;
    throw error;
  }
}
