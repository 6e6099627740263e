import { SandboxError } from "@opensandbox/wire/errors.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { MemoryThreads } from "#snapshots/memory-threads.ts";
import type { SnapshotStore, StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { type Verifier, verifyDelta } from "#snapshots/verify.ts";
import type { ObjectStore } from "#object-store/object-store.ts";
import { fetchSnapshot } from "./fetch-snapshot.ts";
import { LocalContents } from "./local-contents.ts";
import { SealedObjects } from "./sealed-objects.ts";
import { snapshotKey } from "./snapshot-index.ts";
import { type Swept, sweepStore } from "./sweep-store.ts";
import { uploadSnapshot } from "./upload-snapshot.ts";

export interface RemoteSnapshotsOptions {
  readonly store: ObjectStore;
  /** 32 bytes. Absent: objects are not encrypted. */
  readonly key?: Buffer | undefined;
  readonly workerId: string;
  readonly snapshots: SnapshotStore;
  readonly templates: SnapshotStore;
  readonly verifier: Pick<Verifier, "verify">;
  readonly memory: Pick<MemoryThreads, "hash" | "verifyChunks">;
}

/** The snapshots of this worker that the object store has too, and those that it can fetch from there. */
export class RemoteSnapshots {
  readonly location: string;
  readonly #options: RemoteSnapshotsOptions;
  readonly #objects: SealedObjects;
  readonly #local: LocalContents;
  readonly #fetches = new Map<string, Fetch>();

  constructor(options: RemoteSnapshotsOptions) {
    this.#options = options;
    this.location = options.store.location;
    this.#objects = new SealedObjects(options.store, options.key);
    this.#local = new LocalContents([options.templates, options.snapshots]);
  }

  /**
   * Stores a snapshot of this worker. Uploading it again is cheap, and completes an upload that was interrupted.
   * @throws `incompatible` for a snapshot whose files have changed since the capture
   */
  async upload(id: string, signal: AbortSignal): Promise<void> {
    using _ = this.#options.snapshots.hold(id);
    const snapshot = await this.#options.snapshots.find(id);
    if (snapshot === undefined) {
      throw new SandboxError("not_found", `there is no snapshot ${id}`, { resource: "snapshot", id });
    }
    await this.#verify(snapshot);
    await uploadSnapshot(snapshot, { objects: this.#objects, signal });
  }

  /**
   * Fetches a snapshot that this worker does not have. Callers at the same time share one fetch, which ends when the last
   * of them gives up. `onBytes` receives the bytes fetched so far, as they grow.
   * @throws `not_found` when it is not stored
   */
  async fetch(id: string, onBytes: (bytes: number) => void, signal: AbortSignal): Promise<void> {
    let current = this.#fetches.get(id);
    if (current === undefined) {
      current = new Fetch((transfer) => this.#fetch(id, transfer));
      this.#fetches.set(id, current);
      const forget = (): void => void this.#fetches.delete(id);
      current.done.then(forget, forget);
    }
    await current.join(onBytes, signal);
  }

  /** Removes the stored copy. Removing one that is not stored succeeds. Chunks that nothing names stay. */
  async remove(id: string, signal: AbortSignal): Promise<void> {
    await this.#objects.store.delete(snapshotKey(id), signal);
  }

  /** Removes old objects that no stored snapshot names, of every worker with the same store. */
  async sweep(signal: AbortSignal): Promise<Swept> {
    return await sweepStore(this.#objects, Date.now(), signal);
  }

  async #fetch(
    id: string,
    { signal, onBytes }: { readonly signal: AbortSignal; readonly onBytes: (bytes: number) => void },
  ): Promise<void> {
    const { snapshots, workerId: owner } = this.#options;
    // A fetch that ended between the caller's look and this one has brought it.
    if ((await snapshots.find(id)) !== undefined) return;
    const transfer = { objects: this.#objects, signal, onBytes };
    await fetchSnapshot({ id, snapshots, owner, local: await this.#local.find(), transfer });
  }

  async #verify(snapshot: StoredSnapshot): Promise<void> {
    const { verifier, memory } = this.#options;
    await verifier.verify(snapshot);
    await verifyDelta(snapshot, memory);
  }
}

/** A fetch that several callers wait for. */
class Fetch {
  readonly done: Promise<void>;
  readonly #ending = new AbortController();
  readonly #listeners = new Set<(bytes: number) => void>();
  #callers = 0;
  #bytes = 0;

  constructor(run: (transfer: { signal: AbortSignal; onBytes: (bytes: number) => void }) => Promise<void>) {
    const onBytes = (bytes: number): void => {
      this.#bytes += bytes;
      for (const listener of this.#listeners) listener(this.#bytes);
    };
    this.done = run({ signal: this.#ending.signal, onBytes });
    this.done.catch(() => undefined);
  }

  async join(onBytes: (bytes: number) => void, signal: AbortSignal): Promise<void> {
    this.#callers += 1;
    this.#listeners.add(onBytes);
    try {
      await orAborted(this.done, signal);
    } finally {
      this.#listeners.delete(onBytes);
      this.#callers -= 1;
      if (this.#callers === 0) this.#ending.abort(new SandboxError("canceled", "every caller has given the fetch up"));
    }
  }
}
