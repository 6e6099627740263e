import { readFile, rm } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Evacuated } from "@opensandbox/control-plane/fleet.ts";
import type { InstanceMetadata, ScheduledEvent } from "@opensandbox/worker/instance-metadata.ts";
import type { log } from "../log.ts";
import { writePrivateFile } from "../private-file.ts";

export interface ScheduledEventsOptions {
  readonly metadata: Pick<InstanceMetadata, "machineName" | "scheduledEvents" | "approve">;
  /** Asks the server to hibernate this worker's sandboxes, and returns what is left. */
  readonly evacuate: (signal: AbortSignal) => Promise<Evacuated>;
  /** Lets new sandboxes in again. */
  readonly admit: (signal: AbortSignal) => Promise<void>;
  /** Exists while this worker is cordoned because of an event. */
  readonly markFile: string;
  readonly log: typeof log;
  /** Absent: every second, as the shortest notice is 30 s. */
  readonly everyMs?: number;
}

/** Events after which this machine and its disks are gone. */
const removals: readonly ScheduledEvent["type"][] = ["Preempt", "Terminate"];

/**
 * Answers the events that Azure announces for this machine: hibernates its sandboxes before a reboot, and stores their
 * snapshots as well before a removal, then lets Azure begin. After the event the worker takes new sandboxes again.
 * Disposing ends the watch.
 */
export class ScheduledEvents implements AsyncDisposable {
  readonly #options: ScheduledEventsOptions;
  readonly #ending = new AbortController();
  readonly #watching: Promise<void>;
  readonly #approved = new Set<string>();
  readonly #announced = new Set<string>();

  constructor(options: ScheduledEventsOptions) {
    this.#options = options;
    this.#watching = this.#watch(this.#ending.signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort();
    await this.#watching;
  }

  /** Never rejects: a metadata service that fails for a while must not leave later events unanswered. */
  async #watch(signal: AbortSignal): Promise<void> {
    const { metadata, log, everyMs = 1000 } = this.#options;
    let name: string | undefined;
    let isFailing = false;
    while (!signal.aborted) {
      try {
        name ??= await metadata.machineName(signal);
        await this.#round(name, signal);
        isFailing = false;
      } catch (error) {
        if (signal.aborted) return;
        if (!isFailing)
          log("warn", "cannot answer scheduled events now: this worker tries again", describeError(error));
        isFailing = true;
      }
      await sleep(everyMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #round(name: string, signal: AbortSignal): Promise<void> {
    const { metadata, admit, markFile, log } = this.#options;
    const own = (await metadata.scheduledEvents(signal)).filter(
      ({ machines, type }) => type !== "Freeze" && machines.some((each) => each.toLowerCase() === name.toLowerCase()),
    );
    if (own.length === 0) {
      if (!(await exists(markFile))) return;
      await admit(signal);
      await rm(markFile, { force: true });
      return log("info", "the scheduled event is over: this worker takes new sandboxes again");
    }
    const open = own.filter(({ id, status }) => status === "Scheduled" && !this.#approved.has(id));
    if (open.length === 0) return;
    for (const { id, type, notBefore } of open) {
      if (this.#announced.has(id)) continue;
      this.#announced.add(id);
      const at = notBefore === undefined ? {} : { notBefore: new Date(notBefore).toISOString() };
      log("warn", "Azure is about to stop this machine: its sandboxes hibernate", { event: id, type, ...at });
    }
    const { sandboxes, snapshots } = await this.#evacuate(signal);
    for (const { id, type } of open) {
      if (sandboxes > 0 || (removals.includes(type) && snapshots > 0)) continue;
      await metadata.approve(id, signal);
      this.#approved.add(id);
      log("info", "nothing runs here any more: Azure may stop this machine", { event: id, type });
    }
  }

  async #evacuate(signal: AbortSignal): Promise<Evacuated> {
    const { evacuate, markFile } = this.#options;
    const left = await evacuate(signal);
    // A worker that an operator has cordoned stays so after the event.
    if (!left.wasCordoned) await writePrivateFile(markFile, "");
    return left;
  }
}

async function exists(file: string): Promise<boolean> {
  return await readFile(file).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return false;
      throw error;
    },
  );
}
