import type { SnapshotManifest } from "#snapshots/manifest.ts";
import type { Chunk } from "./file-chunks.ts";
import { damaged, type SealedObjects } from "./sealed-objects.ts";

/** The format of indexes. Raise it when earlier versions could not read the next one. */
const formatVersion = 1;

/** Describes a stored snapshot. It is written last: a snapshot without an index is not stored. */
export interface SnapshotIndex {
  readonly id: string;
  /** The text of the manifest. */
  readonly manifest: string;
  readonly files: readonly IndexedFile[];
}

/** A file of a snapshot. */
export interface IndexedFile {
  readonly name: string;
  /** Permission bits. */
  readonly mode: number;
  /** The group of the tenant whose machines may read the file. */
  readonly gid: number;
  /** The name of the file's {@link FileIndex}. */
  readonly file: string;
}

/** Describes a file, which several snapshots may share. It is written after all chunks were read back. */
export interface FileIndex {
  readonly bytes: number;
  readonly chunks: readonly Chunk[];
}

export function snapshotKey(id: string): string {
  return `snapshots/${id}`;
}

export function fileKey(name: string): string {
  return `files/${name.slice(0, 2)}/${name}`;
}

/** Files whose content has been hashed, by name. */
export function contentHashes({ files, memory }: SnapshotManifest): ReadonlyMap<string, string> {
  const shared = files.contents?.map(({ file, sparseSha256 }) => [file, `sparse ${sparseSha256}`] as const) ?? [];
  // That of a chunked delta covers the hashes of its chunks, and so its content.
  const layers = files.disks.flatMap((disk) => disk.layers);
  const own = [...layers, memory?.devices, memory?.delta].filter((file) => file !== undefined);
  return new Map([...own.map(({ file, sha256 }) => [file, `whole ${sha256}`] as const), ...shared]);
}

export async function putIndex(
  objects: SealedObjects,
  key: string,
  index: SnapshotIndex | FileIndex,
  signal: AbortSignal,
): Promise<void> {
  await objects.put(key, Buffer.from(JSON.stringify({ formatVersion, ...index })), signal);
}

/** Undefined: there is no such index. @throws `incompatible` for one that is damaged or of another version */
export async function getIndex<Index extends SnapshotIndex | FileIndex>(
  objects: SealedObjects,
  key: string,
  signal: AbortSignal,
): Promise<Index | undefined> {
  const content = await objects.get(key, signal);
  if (content === undefined) return undefined;
  const { formatVersion: found, ...index } = JSON.parse(content.toString()) as { formatVersion?: unknown };
  if (found !== formatVersion) {
    throw damaged(`${key} has format ${String(found)}, and this version reads format ${formatVersion}`);
  }
  return index as unknown as Index;
}
