import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { allFiles, encodeManifest, type SnapshotManifest } from "#snapshots/manifest.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { type Transfer, uploadFile } from "./file-chunks.ts";
import { damaged } from "./sealed-objects.ts";
import {
  contentHashes,
  fileKey,
  getIndex,
  type IndexedFile,
  putIndex,
  type SnapshotIndex,
  snapshotKey,
} from "./snapshot-index.ts";

/**
 * Stores a snapshot: its files, each once for all snapshots that share it, then its index. An upload that was interrupted
 * continues with the chunks that are missing. When this resolves, every chunk has been read back.
 */
export async function uploadSnapshot(
  { directory, manifest }: StoredSnapshot,
  transfer: Transfer,
): Promise<SnapshotIndex> {
  const { objects, signal } = transfer;
  const hashes = contentHashes(manifest);
  const files: IndexedFile[] = [];
  for (const name of filesOf(manifest)) {
    const path = join(directory, name);
    const { mode, gid } = await stat(path);
    const file = await storeFile(path, hashes.get(name), transfer);
    files.push({ name, mode: mode & 0o777, gid, file });
  }
  const index = { id: manifest.id, manifest: encodeManifest(manifest), files };
  const key = snapshotKey(manifest.id);
  await putIndex(objects, key, index, signal);
  const back = await getIndex<SnapshotIndex>(objects, key, signal);
  if (JSON.stringify(back) !== JSON.stringify(index)) throw damaged(`${key} reads differently than it was written`);
  return index;
}

/** Every file of a snapshot but its manifest, each once. */
function filesOf({ files, memory }: SnapshotManifest): ReadonlySet<string> {
  const ofMemory = [memory?.devices.file, memory?.delta?.file].filter((file) => file !== undefined);
  return new Set([...allFiles(files), ...ofMemory]);
}

/** Returns the name of the file's index. Files of earlier versions have no hash of their content: their chunks give one. */
async function storeFile(path: string, hash: string | undefined, transfer: Transfer): Promise<string> {
  const { objects, signal } = transfer;
  const known = hash === undefined ? undefined : objects.keyed(hashOf(hash));
  if (known !== undefined && (await objects.isFresh(fileKey(known), signal))) return known;
  const index = await uploadFile(path, transfer);
  const name = known ?? objects.keyed(hashOf(JSON.stringify(index)));
  await putIndex(objects, fileKey(name), index, signal);
  return name;
}

/** The name of the index of a file whose content has this hash. */
function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
