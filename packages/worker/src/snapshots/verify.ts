import { stat } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { StoredFile } from "./manifest.ts";
import type { MemoryThreads } from "./memory-threads.ts";
import type { StoredSnapshot } from "./snapshot-store.ts";

/**
 * Looks whether the files of snapshots are what was captured. What was looked at once and has not been touched since is
 * not read again: a layer that a hundred machines share is read for the first of them.
 */
export class Verifier {
  readonly #memory: MemoryThreads;
  readonly #good = new Set<string>();

  constructor(memory: MemoryThreads) {
    this.#memory = memory;
  }

  /** All but the memory's delta, which is looked at when it is loaded. @throws `incompatible` for a damaged file */
  async verify({ directory, manifest }: StoredSnapshot): Promise<void> {
    const { files, memory } = manifest;
    const layers = files.disks.flatMap((disk) => disk.layers);
    const all = memory === undefined ? layers : [...layers, memory.devices];
    await Promise.all(all.map((stored) => this.#verifyFile(directory, stored)));
  }

  async #verifyFile(directory: string, { file, bytes, sha256 }: StoredFile): Promise<void> {
    const path = join(directory, file);
    const identity = await identityOf(path);
    if (identity !== undefined && this.#good.has(identity)) return;
    const found = identity === undefined ? undefined : await this.#memory.hash(path);
    if (found === undefined || found.bytes !== bytes || found.sha256 !== sha256) {
      const what = found === undefined ? "is missing" : "is not what was captured";
      throw new SandboxError("incompatible", `the snapshot is damaged: ${file} ${what}`, { reason: "damaged" });
    }
    if (identity !== undefined) this.#good.add(identity);
  }
}

/** Links to a file change its ctime, so that is no part of it. */
async function identityOf(path: string): Promise<string | undefined> {
  try {
    const { dev, ino, size, mtimeNs } = await stat(path, { bigint: true });
    return `${dev}:${ino}:${size}:${mtimeNs}`;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
