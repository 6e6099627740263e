import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "../log.ts";
import { regularly } from "../regularly.ts";

export interface Autosave {
  /** Whose guests are asked. */
  readonly worker: Pick<Worker, "guest">;
  /** Those that run now. */
  readonly running: () => Promise<readonly SandboxId[]>;
  readonly everyMs: number;
  readonly log: Log;
}

// A sync is a burst of writes; more at once would only wait for the same disk.
const atOnce = 10;

/**
 * Has every guest write to its disks what it holds back, every so often, so that a crash of the host costs no more than
 * that. Disposing ends it.
 */
export function autosave({ worker, running, everyMs, log }: Autosave): AsyncDisposable {
  const ended = new AbortController();
  const saving = regularly(everyMs, async () => {
    try {
      const waiting = [...(await running())];
      await Promise.all(Array.from({ length: atOnce }, () => saveEach(waiting)));
    } catch (error) {
      log("error", "autosave failed", describeError(error));
    }
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
        await worker.guest(id).files.sync(ended.signal);
      } catch (error) {
        // It may have been put away meanwhile; else the next round asks again.
        if (!ended.signal.aborted)
          log("warn", "a sandbox could not be saved", { sandbox: id, ...describeError(error) });
      }
    }
  }
}
