import { join } from "node:path";
import { type ContentChecks, identityOf } from "#host/storage/content-checks.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { sharedFiles, type StoredFile } from "./manifest.ts";
import type { MemoryThreads } from "./memory-threads.ts";
import type { StoredSnapshot } from "./snapshot-store.ts";

/**
 * Compares the files of snapshots with their manifests. A layer is hashed as a whole, once: a layer that a hundred
 * machines share is read for the first of them. Of the files that come from images and templates, which are large, a
 * few pages are compared, and the rest in the background; see {@link ContentChecks}.
 */
export class Verifier {
  readonly #memory: MemoryThreads;
  readonly #checks: ContentChecks;
  readonly #intact = new Set<string>();

  constructor(memory: MemoryThreads, checks: ContentChecks) {
    this.#memory = memory;
    this.#checks = checks;
  }

  /** All files but the memory's delta, which is hashed when it is loaded. @throws `incompatible` for a damaged file */
  async verify({ directory, manifest }: StoredSnapshot): Promise<void> {
    const { files, memory } = manifest;
    const layers = files.disks.flatMap((disk) => disk.layers);
    const stored = memory === undefined ? layers : [...layers, memory.devices];
    const shared = new Set(sharedFiles(files));
    const contents = files.contents?.filter(({ file }) => shared.has(file)) ?? [];
    await Promise.all([
      ...stored.map((file) => this.#verifyStored(directory, file)),
      ...contents.map(async ({ file, ...record }) => {
        const result = await this.#checks.check(join(directory, file), record);
        if (result !== "intact") throw damaged(file, result);
      }),
    ]);
  }

  async #verifyStored(directory: string, { file, bytes, sha256 }: StoredFile): Promise<void> {
    const path = join(directory, file);
    const identity = await identityOf(path);
    if (identity === undefined) throw damaged(file, "missing");
    if (this.#intact.has(identity)) return;
    const found = await this.#memory.hash(path);
    if (found.bytes !== bytes || found.sha256 !== sha256) throw damaged(file, "damaged");
    this.#intact.add(identity);
  }
}

/** Compares the memory's delta with its manifest, for a snapshot that no machine loads now. @throws `incompatible` */
export async function verifyDelta(
  { directory, manifest }: StoredSnapshot,
  memory: Pick<MemoryThreads, "hash" | "verifyChunks">,
): Promise<void> {
  const delta = manifest.memory?.delta;
  if (delta === undefined) return;
  const path = join(directory, delta.file);
  if (delta.chunked === true) return await memory.verifyChunks(path, delta.sha256);
  const { bytes, sha256 } = await memory.hash(path);
  if (bytes === delta.bytes && sha256 === delta.sha256) return;
  throw new SandboxError("incompatible", `${delta.file} does not match its manifest`, { reason: "damaged" });
}

function damaged(file: string, why: "damaged" | "missing"): SandboxError {
  const what = why === "missing" ? "is missing" : "does not match its manifest";
  return new SandboxError("incompatible", `the snapshot is damaged: ${file} ${what}`, { reason: "damaged" });
}
