import { chmod } from "node:fs/promises";
import { type DurableFiles, hostFiles } from "#host/storage/durable-files.ts";
import { ImmutableDirectories } from "#host/storage/immutable-directories.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { decodeManifest, encodeManifest, type SnapshotManifest } from "./manifest.ts";

/** A snapshot that exists. */
export interface StoredSnapshot {
  readonly directory: string;
  readonly manifest: SnapshotManifest;
}

/** A directory that becomes a snapshot by its publication. Disposing it before that removes it. */
export interface UnfinishedSnapshot extends AsyncDisposable {
  readonly directory: string;
  /** Resolves when the snapshot survives a power cut. */
  publish(manifest: SnapshotManifest): Promise<StoredSnapshot>;
}

export interface SnapshotStoreOptions {
  /**
   * Machines reach the files by their names in this store, as they must where a hard link cannot be made. The mode of
   * each file says which machines may read it.
   */
  readonly passable?: boolean;
  readonly files?: DurableFiles;
}

/**
 * Snapshots, each an immutable directory. Files that several snapshots share are hard links: removing a snapshot frees
 * only what no other one has.
 */
export class SnapshotStore {
  readonly #directory: string;
  readonly #directories: ImmutableDirectories;
  /** The readers of each snapshot. */
  readonly #holds = new Map<string, Set<Promise<void>>>();

  constructor(directory: string, { passable = false, files = hostFiles }: SnapshotStoreOptions = {}) {
    this.#directory = directory;
    this.#directories = directoriesIn(directory, passable, files);
  }

  /** `owner` is the worker that makes the snapshot: {@link removeUnfinished} finds what it leaves when it dies. */
  async createUnfinished(id: string, owner: string): Promise<UnfinishedSnapshot> {
    const unfinished = await this.#directories.createUnfinished(id, `${owner}-${id}`);
    // Restores the permissions that the process's umask removed.
    await chmod(this.#directory, parentMode);
    return {
      directory: unfinished.directory,
      publish: async (manifest) => ({ directory: await unfinished.publish(encodeManifest(manifest)), manifest }),
      [Symbol.asyncDispose]: () => unfinished[Symbol.asyncDispose](),
    };
  }

  /** The directory of the snapshot, which need not exist. */
  pathOf(id: string): string {
    return this.#directories.pathOf(id);
  }

  /** The ids of all snapshots. */
  async ids(): Promise<readonly string[]> {
    return await this.#directories.names();
  }

  /** @throws `incompatible` when the manifest is damaged or missing; the directory stays, since its files may be whole */
  async find(id: string): Promise<StoredSnapshot | undefined> {
    const text = await this.#directories.readManifest(id);
    if (text === undefined) return undefined;
    const directory = this.#directories.pathOf(id);
    const manifest = decodeManifest(text);
    if (manifest.id !== id) {
      throw new SandboxError("incompatible", "the snapshot is damaged: its manifest is that of another snapshot", {
        reason: "damaged",
      });
    }
    return { directory, manifest };
  }

  /**
   * Adds a file to a snapshot and replaces its manifest by one that says the same in another way. A reader of the
   * earlier manifest still finds all its files.
   */
  async amend(
    id: string,
    manifest: SnapshotManifest,
    added: { readonly from: string; readonly to: string },
  ): Promise<void> {
    await this.#directories.amend(id, encodeManifest(manifest), added);
  }

  /** Until it is disposed, {@link remove} of the snapshot waits. Take it before {@link find}. */
  hold(id: string): Disposable {
    const { promise, resolve } = Promise.withResolvers<void>();
    const holds = this.#holds.get(id) ?? new Set();
    this.#holds.set(id, holds.add(promise));
    return {
      [Symbol.dispose]: () => {
        holds.delete(promise);
        if (holds.size === 0) this.#holds.delete(id);
        resolve();
      },
    };
  }

  /** Waits for the snapshot's readers, then removes it. */
  async remove(id: string): Promise<void> {
    for (let holds = this.#holds.get(id); holds !== undefined; holds = this.#holds.get(id)) await Promise.all(holds);
    await this.#directories.remove(id);
  }

  /** Removes what dead owners have left. `isAlive` says whether an owner may still be making the snapshot `id`. */
  async removeUnfinished(isAlive: (owner: string, id: string) => boolean | Promise<boolean>): Promise<void> {
    for (const leftover of await this.#directories.leftovers()) {
      const [, owner, id] = /^(w-[0-9a-f]+)-(.+)$/.exec(leftover.label) ?? [];
      const abandoned = owner !== undefined && id !== undefined && !(await isAlive(owner, id));
      if (leftover.kind === "removed" || abandoned) await this.#directories.removeLeftover(leftover);
    }
  }
}

/** The directories of all templates. Removing one needs its lock. */
export function templateDirectories(directory: string): ImmutableDirectories {
  return directoriesIn(directory, true, hostFiles);
}

function directoriesIn(parent: string, passable: boolean, files: DurableFiles): ImmutableDirectories {
  const modes = { parent: parentMode, directory: passable ? 0o711 : 0o700, manifest: 0o400 };
  return new ImmutableDirectories(parent, { modes, files });
}

/** Passable but not readable: the users of machines reach files by names that they know. */
const parentMode = 0o711;
