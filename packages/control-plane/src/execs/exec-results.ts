import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { ExecEnd, RunningExec } from "@opensandbox/wire/worker/worker.ts";
import type { Clock } from "../clock.ts";

export interface ExecLimits {
  /** Output kept of one command, in bytes; the rest is taken and dropped, so that the command goes on. */
  readonly perExecBytes: number;
  /** Output kept of all commands together, in bytes. The oldest results lose theirs first. */
  readonly totalBytes: number;
  /** How long a result is kept after the command's end. */
  readonly keepMs: number;
  /** How many results are kept. */
  readonly keepCount: number;
}

export const defaultExecLimits: ExecLimits = {
  perExecBytes: 64 * 2 ** 20,
  totalBytes: 512 * 2 ** 20,
  keepMs: 600_000,
  keepCount: 10_000,
};

/** What a command has written so far. */
export interface Output {
  readonly stdout: string;
  readonly stderr: string;
  /** There was more than is kept. */
  readonly truncated: boolean;
}

/** A command that runs apart from the request that started it. */
export interface ExecHandle {
  readonly id: string;
  readonly startedAt: Date;
  /** Settled: how the command ended, or why that cannot be known. */
  readonly state: { readonly end?: ExecEnd; readonly error?: SandboxError } | undefined;
  output(): Output;
  /** Resolves when the command has ended, after `milliseconds`, or when the signal is aborted. */
  settled(milliseconds: number, signal: AbortSignal): Promise<void>;
}

/** Takes the output of commands and keeps results until they are asked for, within bounds. */
export class ExecResults {
  readonly #limits: ExecLimits;
  readonly #clock: Clock;
  /** In the order of their start. */
  readonly #records = new Map<string, ExecRecord>();
  #bytes = 0;

  constructor(limits: ExecLimits, clock: Clock) {
    this.#limits = limits;
    this.#clock = clock;
  }

  /** Takes all output and returns it with the end; keeps nothing. */
  async collect(exec: RunningExec): Promise<Output & { readonly end: ExecEnd }> {
    const taken: Taken = { stdout: [], stderr: [], bytes: 0, truncated: false };
    try {
      const end = await this.#take(exec, taken);
      return { ...outputOf(taken), end };
    } finally {
      this.#drop(taken);
    }
  }

  /** Takes the output in the background. The result can be found with {@link find} once {@link keep} was called. */
  start(exec: RunningExec): ExecHandle {
    const taken: Taken = { stdout: [], stderr: [], bytes: 0, truncated: false };
    const record = new ExecRecord(randomUUID(), new Date(this.#clock.now()), taken);
    const fail = (error: unknown): { error: SandboxError } => ({ error: unknownEnd(error) });
    record.settle(
      this.#take(exec, taken).then((end) => ({ end }), fail),
      () => this.#clock.elapsed(),
    );
    return record;
  }

  /** Makes the handle findable by the sandbox it belongs to. */
  keep(sandbox: SandboxId, handle: ExecHandle): void {
    this.#forgetOld();
    if (handle instanceof ExecRecord) this.#records.set(keyOf(sandbox, handle.id), handle);
  }

  /** Gives up a handle that was never kept. */
  release(handle: ExecHandle): void {
    if (handle instanceof ExecRecord) this.#drop(handle.taken);
  }

  find(sandbox: SandboxId, id: string): ExecHandle {
    this.#forgetOld();
    const record = this.#records.get(keyOf(sandbox, id));
    if (record !== undefined) return record;
    const message = "exec not found: a result is kept for ten minutes after the command's end";
    throw new SandboxError("not_found", message, { resource: "exec", id });
  }

  async #take(exec: RunningExec, taken: Taken): Promise<ExecEnd> {
    // It may reject while output is still being taken; it is looked at below.
    exec.result.catch(() => {});
    for await (const { pipe, bytes } of exec.output) {
      if (taken.truncated || taken.bytes + bytes.length > this.#limits.perExecBytes || !this.#reserve(bytes.length)) {
        taken.truncated = true;
        continue;
      }
      taken.bytes += bytes.length;
      taken[pipe].push(bytes);
    }
    return exec.result;
  }

  #reserve(bytes: number): boolean {
    for (const { taken, endedAt } of this.#records.values()) {
      if (this.#bytes + bytes <= this.#limits.totalBytes) break;
      if (endedAt !== undefined && taken.bytes > 0) {
        this.#drop(taken);
        taken.truncated = true;
      }
    }
    if (this.#bytes + bytes > this.#limits.totalBytes) return false;
    this.#bytes += bytes;
    return true;
  }

  #drop(taken: Taken): void {
    this.#bytes -= taken.bytes;
    taken.bytes = 0;
    taken.stdout = [];
    taken.stderr = [];
  }

  #forgetOld(): void {
    const now = this.#clock.elapsed();
    for (const [key, { endedAt, taken }] of this.#records) {
      const old = endedAt !== undefined && now - endedAt >= this.#limits.keepMs;
      if (!old && (endedAt === undefined || this.#records.size < this.#limits.keepCount)) continue;
      this.#records.delete(key);
      this.#drop(taken);
    }
  }
}

class ExecRecord implements ExecHandle {
  readonly id: string;
  readonly startedAt: Date;
  readonly taken: Taken;
  state: ExecHandle["state"];
  endedAt: number | undefined;
  #done: Promise<void> = Promise.resolve();

  constructor(id: string, startedAt: Date, taken: Taken) {
    this.id = id;
    this.startedAt = startedAt;
    this.taken = taken;
  }

  settle(state: Promise<NonNullable<ExecHandle["state"]>>, elapsed: () => number): void {
    this.#done = state.then((settled) => {
      this.state = settled;
      this.endedAt = elapsed();
    });
  }

  output(): Output {
    return outputOf(this.taken);
  }

  async settled(milliseconds: number, signal: AbortSignal): Promise<void> {
    const enough = new AbortController();
    const until = AbortSignal.any([signal, enough.signal]);
    // An aborted wait is a wait that is over.
    const waited = sleep(milliseconds, undefined, { signal: until }).catch(() => {});
    await Promise.race([this.#done, waited]);
    enough.abort();
  }
}

interface Taken {
  stdout: Uint8Array[];
  stderr: Uint8Array[];
  bytes: number;
  truncated: boolean;
}

/** Decoded at once, so that no character is cut where two chunks meet. */
function outputOf({ stdout, stderr, truncated }: Taken): Output {
  return { stdout: Buffer.concat(stdout).toString("utf8"), stderr: Buffer.concat(stderr).toString("utf8"), truncated };
}

function unknownEnd(error: unknown): SandboxError {
  const reason = error instanceof Error ? error.message : String(error);
  return new SandboxError("unavailable", `the end of the command cannot be known: ${reason}`, undefined, {
    cause: error,
  });
}

function keyOf(sandbox: SandboxId, id: string): string {
  return `${sandbox}/${id}`;
}
