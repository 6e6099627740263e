import type { ObjectInfo } from "#object-store/object-store.ts";
import { sweepAgeMs } from "./object-ages.ts";
import type { SealedObjects } from "./sealed-objects.ts";
import { type FileIndex, getIndex, type SnapshotIndex } from "./snapshot-index.ts";

/** What a sweep has removed. */
export interface Swept {
  readonly objects: number;
  readonly bytes: number;
}

/**
 * Removes the indexes of files that no stored snapshot names, and the chunks that no index of a file names. Young objects
 * stay, because an upload may be about to name them. The sweep removes nothing when it cannot read an index.
 * @throws `incompatible` when an index of a snapshot is damaged or has another key
 */
export async function sweepStore(objects: SealedObjects, now: number, signal: AbortSignal): Promise<Swept> {
  const { store } = objects;
  const isYoung = ({ modifiedAt }: ObjectInfo): boolean => now - modifiedAt.getTime() < sweepAgeMs;
  let [count, bytes] = [0, 0];
  /** False: it has been written again since it was listed. */
  const remove = async (key: string): Promise<boolean> => {
    const found = await store.head(key, signal);
    if (found === undefined) return true;
    if (isYoung(found)) return false;
    await store.delete(key, signal);
    count += 1;
    bytes += found.bytes;
    return true;
  };

  const files = new Set<string>();
  for await (const { key } of store.list("snapshots/", signal)) {
    const index = await getIndex<SnapshotIndex>(objects, key, signal);
    for (const { file } of index?.files ?? []) files.add(file);
  }
  const chunks = new Set<string>();
  for await (const file of store.list("files/", signal)) {
    if (!files.has(nameOf(file.key)) && !isYoung(file) && (await remove(file.key))) continue;
    const index = await getIndex<FileIndex>(objects, file.key, signal);
    for (const [, , name] of index?.chunks ?? []) chunks.add(name);
  }
  for await (const chunk of store.list("chunks/", signal)) {
    if (!chunks.has(nameOf(chunk.key)) && !isYoung(chunk)) await remove(chunk.key);
  }
  return { objects: count, bytes };
}

function nameOf(key: string): string {
  return key.slice(key.lastIndexOf("/") + 1);
}
