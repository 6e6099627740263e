import { existsSync } from "node:fs";
import { chmod, mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { failpoint } from "#host/failpoints.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { decodeManifest, encodeManifest, type SnapshotManifest } from "./manifest.ts";

const manifestFile = "manifest.json";
const unfinished = ".unfinished-";
const removed = ".removed-";

/** A snapshot that exists. */
export interface StoredSnapshot {
  readonly directory: string;
  readonly manifest: SnapshotManifest;
}

/** A directory that becomes a snapshot when it is published, and else goes with its disposal. */
export interface UnfinishedSnapshot extends AsyncDisposable {
  readonly directory: string;
  /** Settles when the snapshot would survive a crash of the host. */
  publish(manifest: SnapshotManifest): Promise<StoredSnapshot>;
}

/**
 * Directories of immutable files, each complete or not there. Files that several share are hard links: removing a
 * directory frees what nobody else has, and nothing else.
 */
export class SnapshotStore {
  readonly #directory: string;
  readonly #passable: boolean;
  /** Whoever reads a snapshot at the moment. */
  readonly #holds = new Map<string, Set<Promise<void>>>();

  /**
   * `passable`: machines get to the files by their names here, as they must where a hard link cannot be made. What they
   * may read the files themselves say.
   */
  constructor(directory: string, { passable }: { readonly passable: boolean } = { passable: false }) {
    this.#directory = directory;
    this.#passable = passable;
  }

  /** `owner` names who makes it: what it leaves when it dies is found by {@link removeUnfinished}. */
  async begin(id: string, owner: string): Promise<UnfinishedSnapshot> {
    await mkdir(this.#directory, { recursive: true });
    await chmod(this.#directory, 0o711);
    const directory = join(this.#directory, `${unfinished}${owner}-${id}`);
    await mkdir(directory, { mode: this.#passable ? 0o711 : 0o700 });
    let published = false;
    return {
      directory,
      publish: async (manifest) => {
        await failpoint("write manifest");
        await writeFile(join(directory, manifestFile), encodeManifest(manifest), { mode: 0o400 });
        // Names and contents are on the disk before the name that makes them a snapshot is.
        for (const name of await readdir(directory)) await flush(join(directory, name));
        await flush(directory);
        await failpoint("publish snapshot");
        const final = join(this.#directory, id);
        await rename(directory, final);
        published = true;
        try {
          await failpoint("flush published snapshot");
          await flush(this.#directory);
        } catch (error) {
          await rm(final, { recursive: true, force: true });
          throw error;
        }
        return { directory: final, manifest };
      },
      [Symbol.asyncDispose]: async () => {
        if (!published) await rm(directory, { recursive: true, force: true });
      },
    };
  }

  /** @throws `incompatible` when its manifest is damaged */
  async find(id: string): Promise<StoredSnapshot | undefined> {
    const directory = join(this.#directory, id);
    let text: string;
    try {
      text = await readFile(join(directory, manifestFile), "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
    const manifest = decodeManifest(text);
    if (manifest.id !== id) {
      throw new SandboxError("incompatible", "the snapshot is damaged: its manifest is that of another", {
        reason: "damaged",
      });
    }
    return { directory, manifest };
  }

  /**
   * Adds a file to a snapshot and makes `manifest`, which says the same in another way, its manifest. Who has read the
   * one before finds all its files where they were.
   */
  async amend(
    id: string,
    manifest: SnapshotManifest,
    added: { readonly from: string; readonly to: string },
  ): Promise<void> {
    const directory = join(this.#directory, id);
    await rename(added.from, join(directory, added.to));
    await flush(join(directory, added.to));
    const amended = join(directory, `${manifestFile}.new`);
    await writeFile(amended, encodeManifest(manifest), { mode: 0o400 });
    await flush(amended);
    await rename(amended, join(directory, manifestFile));
    await flush(directory);
  }

  /** Until it is disposed, {@link remove} of the snapshot waits. To be taken before {@link find}. */
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

  /** Waits until nobody reads it. */
  async remove(id: string): Promise<void> {
    for (let holds = this.#holds.get(id); holds !== undefined; holds = this.#holds.get(id)) await Promise.all(holds);
    const doomed = join(this.#directory, `${removed}${id}`);
    await rm(doomed, { recursive: true, force: true });
    try {
      // It disappears in one step.
      await rename(join(this.#directory, id), doomed);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
    await rm(doomed, { recursive: true, force: true });
  }

  /** What owners that are gone have left. `isAlive` says of an owner whether it may still be making the snapshot `id`. */
  async removeUnfinished(isAlive: (owner: string, id: string) => boolean | Promise<boolean>): Promise<void> {
    for (const name of existsSync(this.#directory) ? await readdir(this.#directory) : []) {
      const [, owner, id] =
        (name.startsWith(unfinished) ? /^(w-[0-9a-f]+)-(.+)$/.exec(name.slice(unfinished.length)) : null) ?? [];
      const abandoned = owner !== undefined && id !== undefined && !(await isAlive(owner, id));
      if (abandoned || name.startsWith(removed))
        await rm(join(this.#directory, name), { recursive: true, force: true });
    }
  }
}

async function flush(path: string): Promise<void> {
  await using handle = await open(path);
  await handle.sync();
}
