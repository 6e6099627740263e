import { chmod, chown, link, open, stat } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { decodeManifest } from "#snapshots/manifest.ts";
import type { SnapshotStore } from "#snapshots/snapshot-store.ts";
import { downloadFile, type Transfer } from "./file-chunks.ts";
import { fileBehind } from "./local-contents.ts";
import { damaged } from "./sealed-objects.ts";
import {
  contentHashes,
  type FileIndex,
  fileKey,
  getIndex,
  type IndexedFile,
  type SnapshotIndex,
  snapshotKey,
} from "./snapshot-index.ts";

export interface FetchSnapshot {
  readonly id: string;
  /** The store that receives it. */
  readonly snapshots: SnapshotStore;
  /** The worker that fetches it, for the cleaning up after a crash. */
  readonly owner: string;
  /** Paths of this host's files, by the hashes of their contents. */
  readonly local: ReadonlyMap<string, string>;
  readonly transfer: Transfer;
}

/**
 * Fetches a stored snapshot. Files that a template or another snapshot of this host has are linked, the others are
 * downloaded. The snapshot appears when it is whole.
 * @throws `not_found` when it is not stored
 */
export async function fetchSnapshot({ id, snapshots, owner, local, transfer }: FetchSnapshot): Promise<void> {
  const { objects, signal } = transfer;
  const index = await getIndex<SnapshotIndex>(objects, snapshotKey(id), signal);
  if (index === undefined) {
    throw new SandboxError("not_found", `there is no snapshot ${id}, neither here nor in the object store`, {
      resource: "snapshot",
      id,
    });
  }
  const manifest = decodeManifest(index.manifest);
  if (manifest.id !== id) throw damaged(`the index of ${id} describes ${manifest.id}`);
  const hashes = contentHashes(manifest);
  await using unfinished = await snapshots.createUnfinished(id, owner);
  for (const file of index.files) {
    const hash = hashes.get(file.name);
    const present = hash === undefined ? undefined : local.get(hash);
    const to = pathIn(unfinished.directory, file.name);
    if (present !== undefined && (await linked(present, to, file))) continue;
    await download(to, file, transfer);
  }
  await unfinished.publish(manifest);
}

async function download(to: string, { file, mode, gid }: IndexedFile, transfer: Transfer): Promise<void> {
  const { objects, signal } = transfer;
  const index = await getIndex<FileIndex>(objects, fileKey(file), signal);
  if (index === undefined) throw damaged(`the index of file ${file} is missing`);
  {
    await using handle = await open(to, "wx", 0o600);
    await downloadFile(handle, index, transfer);
  }
  if (process.getuid?.() === 0) await chown(to, 0, gid);
  await chmod(to, mode);
}

/** Links a file of this host with the same content and readers. False: that is impossible. */
async function linked(present: string, to: string, { mode, gid }: IndexedFile): Promise<boolean> {
  const from = await fileBehind(present);
  if (from === undefined) return false;
  try {
    const found = await stat(from);
    if ((found.mode & 0o777) !== mode || (process.getuid?.() === 0 && found.gid !== gid)) return false;
    await link(from, to);
    return true;
  } catch (error) {
    // Removed meanwhile, on another file system, or of another user (protected_hardlinks in proc_sys_fs(5)).
    if (["ENOENT", "EXDEV", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}

/**
 * The path of a file that an index names. An index may have been forged. @throws `incompatible` for one that leads
 * elsewhere
 */
function pathIn(directory: string, name: string): string {
  if (/^[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(name) && name !== "manifest.json") return join(directory, name);
  throw damaged(`a file has the name ${JSON.stringify(name)}`);
}
