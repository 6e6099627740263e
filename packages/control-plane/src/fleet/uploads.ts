import { setTimeout as sleep } from "node:timers/promises";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import { regularly } from "../service/regularly.ts";
import type { UploadStore } from "./upload-store.ts";

/** A worker with an object store that answers. */
export interface Uploader {
  readonly worker: Pick<Worker, "id" | "uploadSnapshot" | "removeStoredSnapshot" | "sweepStore">;
  readonly store: string;
}

export interface UploadsOptions {
  readonly store: UploadStore;
  /** The workers that can upload now. */
  readonly uploaders: () => readonly Uploader[];
  /** Whether this server is the one that looks for due uploads. Default: it is. */
  readonly isOnDuty?: (() => boolean) | undefined;
  readonly clock: Clock;
  readonly log: Log;
  /** How often due uploads are read, in milliseconds. Default: a second. */
  readonly everyMs?: number | undefined;
}

const defaultEveryMs = 1000;

/** Uploads of one worker at a time. Each uses several connections and a processor for compression. */
const uploadsPerWorker = 2;

/** How long a claim holds without a renewal. After a crash of this server the upload continues this much later. */
const claimMs = 60_000;
const renewMs = 15_000;

/** How often an upload of another server is looked at. */
const pollMs = 100;

/** The pause after a failed upload, which doubles with each one. */
const firstPauseMs = 5000;
const maxPauseMs = 600_000;

/**
 * Stores the snapshots of a fleet in its object store in the background, after hibernations and checkpoints. The rows are
 * the queue, so uploads continue after a crash of the server or of a worker, and several servers share the work.
 */
export class Uploads implements AsyncDisposable {
  readonly #options: UploadsOptions;
  readonly #running = new Map<SnapshotId, Running>();
  readonly #rounds: AsyncDisposable;
  #isEnding = false;

  constructor(options: UploadsOptions) {
    this.#options = options;
    const { log, everyMs = defaultEveryMs } = options;
    this.#rounds = regularly({ what: "looking for snapshots to upload", everyMs, log }, () => this.#round());
  }

  /**
   * Resolves when the snapshot is stored. An upload that waits begins now.
   * @throws the error of its upload, and `unavailable` when the worker that has it cannot upload it
   */
  async ensure(snapshotId: SnapshotId, signal: AbortSignal): Promise<void> {
    for (;;) {
      const upload = await this.#options.store.find(snapshotId);
      if (upload?.state === "stored") return;
      if (upload === undefined) {
        throw new SandboxError("not_found", `there is no snapshot ${snapshotId}`, {
          resource: "snapshot",
          id: snapshotId,
        });
      }
      const uploader = this.#options.uploaders().find(({ worker }) => worker.id === upload.workerId);
      if (uploader === undefined) {
        const message = `worker ${upload.workerId} cannot upload snapshot ${snapshotId} now: it does not answer, or has no object store`;
        throw new SandboxError("unavailable", message);
      }
      const running = this.#running.get(snapshotId) ?? (await this.#begin(snapshotId, uploader));
      if (running === undefined) {
        // The background or another server has just begun it.
        await sleep(pollMs, undefined, { signal });
        continue;
      }
      const failure = await orAborted(running.done, signal);
      if (failure !== undefined) throw failure.error;
    }
  }

  /** Ends an upload that is under way, because its snapshot is being removed. */
  async cancel(snapshotId: SnapshotId): Promise<void> {
    const running = this.#running.get(snapshotId);
    running?.ending.abort(new SandboxError("canceled", "the snapshot is being removed"));
    await running?.done;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnding = true;
    await this.#rounds[Symbol.asyncDispose]();
    for (const { ending } of this.#running.values()) {
      ending.abort(new SandboxError("unavailable", "the server is shutting down"));
    }
    await Promise.all([...this.#running.values()].map(({ done }) => done));
  }

  async #round(): Promise<void> {
    if (this.#options.isOnDuty?.() === false) return;
    const uploaders = new Map(this.#options.uploaders().map((uploader) => [uploader.worker.id, uploader]));
    const free = [...uploaders.keys()].filter((id) => this.#countOf(id) < uploadsPerWorker);
    const limit = free.length * uploadsPerWorker;
    const due = await this.#options.store.due(free, { now: this.#options.clock.now(), limit });
    for (const { snapshotId, workerId } of due) {
      const uploader = uploaders.get(workerId);
      if (uploader === undefined || this.#running.has(snapshotId)) continue;
      if (this.#countOf(workerId) < uploadsPerWorker) await this.#begin(snapshotId, uploader);
    }
  }

  #countOf(workerId: string): number {
    return [...this.#running.values()].filter((running) => running.workerId === workerId).length;
  }

  /** Undefined: another server has the upload, it is stored, or this server ends. */
  async #begin(snapshotId: SnapshotId, uploader: Uploader): Promise<Running | undefined> {
    const now = this.#options.clock.now();
    if (!(await this.#options.store.claim(snapshotId, { now, until: now + claimMs }))) return undefined;
    if (this.#isEnding) return undefined;
    const ending = new AbortController();
    const running = { workerId: uploader.worker.id, ending, done: this.#upload(snapshotId, uploader, ending.signal) };
    this.#running.set(snapshotId, running);
    void running.done.finally(() => this.#running.delete(snapshotId));
    return running;
  }

  /** Never rejects: the failure is recorded, and returned. */
  async #upload(
    snapshotId: SnapshotId,
    { worker, store }: Uploader,
    signal: AbortSignal,
  ): Promise<Failure | undefined> {
    const { store: rows, clock, log } = this.#options;
    const fields = { snapshot: snapshotId, worker: worker.id };
    const renewing = regularly({ what: "renewing the claim of an upload", everyMs: renewMs, log }, () =>
      rows.renew(snapshotId, clock.now() + claimMs),
    );
    try {
      await worker.uploadSnapshot(snapshotId, signal);
      const isWanted = await rows.finish(snapshotId, { store, now: clock.now() });
      if (!isWanted) await worker.removeStoredSnapshot(snapshotId);
      log("info", isWanted ? "a snapshot is stored" : "a snapshot was removed during its upload", fields);
      return undefined;
    } catch (error) {
      await this.#recordFailure(snapshotId, error, signal).catch((cause: unknown) =>
        log("error", "cannot record the failure of an upload", { ...fields, ...describeError(cause) }),
      );
      if (!signal.aborted) {
        log("warn", "cannot upload a snapshot: it is tried again later", { ...fields, ...describeError(error) });
      }
      return { error };
    } finally {
      await renewing[Symbol.asyncDispose]();
    }
  }

  async #recordFailure(snapshotId: SnapshotId, error: unknown, signal: AbortSignal): Promise<void> {
    const { store, clock } = this.#options;
    const { attempts = 0 } = (await store.find(snapshotId)) ?? {};
    // An upload that this server gave up is due at once, for the next one.
    const pause = signal.aborted ? 0 : Math.min(maxPauseMs, firstPauseMs * 2 ** attempts);
    const message = error instanceof Error ? error.message : String(error);
    await store.fail(snapshotId, { error: message, nextAt: clock.now() + pause });
  }
}

interface Running {
  readonly workerId: string;
  readonly ending: AbortController;
  /** Never rejects. */
  readonly done: Promise<Failure | undefined>;
}

interface Failure {
  readonly error: unknown;
}
