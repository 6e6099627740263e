import { open, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { type ContentRecord, matchesSample, recordContent } from "./content-record.ts";
import type { IdleTime } from "../idle-time.ts";
import type { Log } from "../log.ts";

export type ContentResult = "intact" | "damaged" | "missing";

/** Pause between chunks of a whole check, which limits it to about a tenth of a processor and 100 MiB/s. */
const pauseMs = 10;

/**
 * Compares files that many machines share with the records that were taken when the files were made. A use compares the
 * size and some pages, once for each file; the whole file is read later, in idle time. A file that is found damaged is
 * refused from then on.
 */
export class ContentChecks {
  readonly #intact = new Set<string>();
  readonly #damaged = new Set<string>();
  readonly #waiting = new Map<string, { readonly path: string; readonly record: ContentRecord }>();
  #wake = Promise.withResolvers<void>();

  /** How many damaged files have been found so far. */
  get damageCount(): number {
    return this.#damaged.size;
  }

  async check(path: string, record: ContentRecord): Promise<ContentResult> {
    const identity = await identityOf(path);
    if (identity === undefined) return "missing";
    if (this.#damaged.has(identity)) return "damaged";
    if (this.#intact.has(identity)) return "intact";
    if (!(await matchesSample(path, record))) {
      this.#damaged.add(identity);
      return "damaged";
    }
    this.#intact.add(identity);
    this.#waiting.set(identity, { path, record });
    this.#wake.resolve();
    return "intact";
  }

  /** Reads whole files in idle time until it is disposed. */
  runInBackground(idle: IdleTime, log: Log): AsyncDisposable {
    const ending = new AbortController();
    const running = this.#run(idle, log, ending.signal);
    return {
      async [Symbol.asyncDispose]() {
        ending.abort();
        await running;
      },
    };
  }

  async #run(idle: IdleTime, log: Log, signal: AbortSignal): Promise<void> {
    const aborted = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    const pause = async (): Promise<void> => {
      await idle.untilIdle(signal);
      signal.throwIfAborted();
      await sleep(pauseMs, undefined, { signal, ref: false });
    };
    while (!signal.aborted) {
      const [next] = this.#waiting;
      if (next === undefined) {
        this.#wake = Promise.withResolvers();
        await Promise.race([this.#wake.promise, aborted]);
        continue;
      }
      const [identity, { path, record }] = next;
      this.#waiting.delete(identity);
      try {
        await pause();
        await this.#checkWhole(identity, path, record, pause, log);
      } catch (error) {
        if (signal.aborted) return;
        // The file may have gone with its directory. The next use of another link to it checks it again.
        this.#intact.delete(identity);
        if ((error as NodeJS.ErrnoException).code === "ENOENT") continue;
        log("warn", "a shared file could not be compared with its record", { path, error: String(error) });
      }
    }
  }

  async #checkWhole(
    identity: string,
    path: string,
    record: ContentRecord,
    pause: () => Promise<void>,
    log: Log,
  ): Promise<void> {
    await using file = await open(path);
    const found = await recordContent(file, pause);
    if (found.bytes === record.bytes && found.sparseSha256 === record.sparseSha256) return;
    this.#intact.delete(identity);
    this.#damaged.add(identity);
    log(
      "error",
      "a file that machines share is damaged: images and templates are made again, snapshots that need the file are " +
        "refused. Check the disk, and restore the file or delete those sandboxes and checkpoints",
      { path, expected: record.sparseSha256, found: found.sparseSha256 },
    );
  }
}

/**
 * Properties that change when a file is written or exchanged. Links to a file change its ctime, which is therefore left
 * out.
 */
export async function identityOf(path: string): Promise<string | undefined> {
  try {
    const { dev, ino, size, mtimeNs } = await stat(path, { bigint: true });
    return `${dev}:${ino}:${size}:${mtimeNs}`;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
