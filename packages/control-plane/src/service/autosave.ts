import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Log } from "../log.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import { regularly } from "./regularly.ts";

export interface Autosave {
  readonly worker: Pick<Worker, "guest">;
  /** The sandboxes that run on this worker now. */
  readonly running: () => Promise<readonly SandboxId[]>;
  readonly everyMs: number;
  /** How long one guest may take. Default: 60 s, far longer than a disk needs for a gigabyte of dirty pages. */
  readonly deadlineMs?: number;
  readonly log: Log;
}

const defaultDeadlineMs = 60_000;

// A sync is a burst of writes: more at once would only queue for the same disk.
const maxAtOnce = 10;

/**
 * Has every guest flush its dirty pages to its disks at a fixed interval, which bounds the loss from a crash of the host. A
 * guest that does not answer within the deadline is skipped in this round. Disposing ends it.
 */
export function autosave({ worker, running, everyMs, deadlineMs = defaultDeadlineMs, log }: Autosave): AsyncDisposable {
  const ended = new AbortController();
  const saving = regularly({ what: "autosave", everyMs, log }, async () => {
    const waiting = [...(await running())];
    await Promise.all(Array.from({ length: maxAtOnce }, () => saveEach(waiting)));
  });
  return {
    async [Symbol.asyncDispose]() {
      ended.abort();
      await saving[Symbol.asyncDispose]();
    },
  };

  async function saveEach(waiting: SandboxId[]): Promise<void> {
    for (let id = waiting.shift(); id !== undefined && !ended.signal.aborted; id = waiting.shift()) {
      try {
        await save(id);
      } catch (error) {
        // The sandbox may have been stopped or hibernated since; otherwise the next round tries again.
        if (!ended.signal.aborted) log("warn", "cannot autosave a sandbox", { sandbox: id, ...describeError(error) });
      }
    }
  }

  async function save(id: SandboxId): Promise<void> {
    const late = new AbortController();
    const message = `the guest did not flush its disks within ${deadlineMs / 1000} seconds`;
    const timer = setTimeout(() => late.abort(new SandboxError("timed_out", message)), deadlineMs);
    const signal = AbortSignal.any([ended.signal, late.signal]);
    try {
      await orAborted(worker.guest(id).files.sync(signal), signal);
    } finally {
      clearTimeout(timer);
    }
  }
}
