import { realpath } from "node:fs/promises";
import { join } from "node:path";
import type { SnapshotStore } from "#snapshots/snapshot-store.ts";
import { contentHashes } from "./snapshot-index.ts";

/** Finds files of this host's templates and snapshots by the hashes of their contents. */
export class LocalContents {
  readonly #stores: readonly SnapshotStore[];
  /** The content of each directory, which never changes: the names of files by their hashes. */
  readonly #known = new Map<string, ReadonlyMap<string, string>>();

  constructor(stores: readonly SnapshotStore[]) {
    this.#stores = stores;
  }

  /** Paths by hash, as of now. A file may be removed at any time. */
  async find(): Promise<ReadonlyMap<string, string>> {
    const found = new Map<string, string>();
    for (const store of this.#stores) {
      for (const id of await store.ids()) {
        const directory = store.pathOf(id);
        for (const [hash, name] of await this.#contentsOf(store, id)) found.set(hash, join(directory, name));
      }
    }
    return found;
  }

  async #contentsOf(store: SnapshotStore, id: string): Promise<ReadonlyMap<string, string>> {
    const directory = store.pathOf(id);
    const known = this.#known.get(directory);
    if (known !== undefined) return known;
    // A damaged snapshot offers nothing. Its next use reports the damage.
    const manifest = (await store.find(id).catch(() => undefined))?.manifest;
    const contents = new Map(
      manifest === undefined ? [] : [...contentHashes(manifest)].map(([name, hash]) => [hash, name] as const),
    );
    this.#known.set(directory, contents);
    return contents;
  }
}

/** The file itself: a shared file may be a symbolic link where a hard link is impossible. */
export async function fileBehind(path: string): Promise<string | undefined> {
  return await realpath(path).catch(() => undefined);
}
