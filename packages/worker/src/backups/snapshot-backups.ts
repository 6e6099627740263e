import { chmod, chown, link, mkdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { ContentChecks } from "#host/storage/content-checks.ts";
import { flushTree, hostFiles, removeTree } from "#host/storage/durable-files.ts";
import { namesIn } from "#host/storage/names-in.ts";
import { MemoryThreads } from "#snapshots/memory-threads.ts";
import { SnapshotStore } from "#snapshots/snapshot-store.ts";
import { Verifier, verifyDelta } from "#snapshots/verify.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { lockBackups } from "./data-directory.ts";
import { FileCopies, type Transfer } from "./file-copies.ts";

/** A file of a snapshot as it was when it was backed up. */
export interface FileRecord {
  readonly name: string;
  readonly bytes: number;
  readonly uid: number;
  readonly gid: number;
  /** Permission bits. */
  readonly mode: number;
}

export interface SnapshotRecord {
  readonly id: string;
  readonly files: readonly FileRecord[];
}

/**
 * Snapshots of a data directory under names of their own, so that a server may remove them while they are copied.
 * Disposing it releases them.
 */
export interface HeldSnapshots extends AsyncDisposable {
  /** Returns the ids of those that do not exist, or that a server removed meanwhile. */
  hold(ids: readonly string[]): Promise<readonly string[]>;
  /** Places all held snapshots in the directory `to`, which must not exist. */
  place(to: string, transfer: Transfer, signal: AbortSignal): Promise<PlacedSnapshots>;
}

export interface PlacedSnapshots {
  readonly snapshots: readonly SnapshotRecord[];
  /** Disk space of the files that had to be copied. */
  readonly copiedBytes: number;
}

const manifestFile = "manifest.json";

/** @throws `unavailable` while another backup or restore of the directory runs */
export async function holdSnapshots(dataDirectory: string): Promise<HeldSnapshots> {
  await using undo = new AsyncDisposableStack();
  undo.use(await lockBackups(dataDirectory));
  const holds = join(dataDirectory, "backup.unfinished");
  // A killed backup leaves its links.
  await removeTree(holds);
  await mkdir(holds, { mode: 0o700 });
  undo.defer(() => removeTree(holds));
  const held = new Set<string>();
  const owned = undo.move();
  return {
    async hold(ids) {
      const missing: string[] = [];
      for (const id of ids) {
        if (held.has(id)) continue;
        if (await linkSnapshot(join(dataDirectory, "snapshots", id), join(holds, id))) held.add(id);
        else missing.push(id);
      }
      return missing;
    },
    async place(to, transfer, signal) {
      const copies = new FileCopies(transfer, signal);
      await mkdir(to, { mode: 0o711 });
      const snapshots: SnapshotRecord[] = [];
      for (const id of held)
        snapshots.push(await placeSnapshot({ id, from: join(holds, id), to: join(to, id) }, copies));
      return { snapshots, copiedBytes: copies.copiedBytes };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** False: there is no whole snapshot. */
async function linkSnapshot(from: string, to: string): Promise<boolean> {
  await mkdir(to, { mode: 0o700 });
  try {
    // First the manifest: a file that is added to the snapshot afterwards replaces it, and this one stays complete.
    const others = (await namesIn(from)).filter((name) => name !== manifestFile);
    for (const name of [manifestFile, ...others]) await link(join(from, name), join(to, name));
    return true;
  } catch (error) {
    await rm(to, { recursive: true });
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

async function placeSnapshot(
  { id, from, to }: { readonly id: string; readonly from: string; readonly to: string },
  copies: FileCopies,
): Promise<SnapshotRecord> {
  await mkdir(to, { mode: 0o700 });
  const files: FileRecord[] = [];
  for (const name of (await namesIn(from)).toSorted()) {
    await copies.place(join(from, name), join(to, name));
    const { size, uid, gid, mode } = await stat(join(to, name));
    files.push({ name, bytes: size, uid, gid, mode: mode & 0o7777 });
  }
  return { id, files };
}

export interface StageSnapshots {
  /** The directory of the backup's snapshots. */
  readonly from: string;
  /** Must not exist. */
  readonly to: string;
  readonly snapshots: readonly SnapshotRecord[];
  readonly transfer: Transfer;
}

/**
 * Brings the snapshots of a backup into a directory of snapshots, gives the files their owners again, and compares every
 * file with the manifest of its snapshot. They survive a power cut when this resolves.
 * @throws `incompatible` for a snapshot that is damaged
 */
export async function stageSnapshots(
  { from, to, snapshots, transfer }: StageSnapshots,
  signal: AbortSignal,
): Promise<{ readonly copiedBytes: number }> {
  const copies = new FileCopies(transfer, signal);
  await mkdir(to, { mode: 0o711 });
  await chmod(to, 0o711);
  await using memory = new MemoryThreads();
  const verifier = new Verifier(memory, new ContentChecks());
  const store = new SnapshotStore(to);
  for (const { id, files } of snapshots) {
    await mkdir(join(to, id), { mode: 0o700 });
    try {
      for (const file of files) {
        const target = join(to, id, file.name);
        await copies.place(join(from, id, file.name), target);
        await checkFile(target, file);
      }
      const found = await store.find(id);
      if (found === undefined) throw new SandboxError("incompatible", "it is missing", { reason: "damaged" });
      await verifier.verify(found);
      await verifyDelta(found, memory);
    } catch (cause) {
      signal.throwIfAborted();
      const message = `the backup is damaged: snapshot ${id} in ${from}: ${(cause as Error).message}`;
      throw new SandboxError("incompatible", message, { reason: "damaged" }, { cause });
    }
  }
  await flushTree(to, hostFiles);
  return { copiedBytes: copies.copiedBytes };
}

/** Gives the file its owner and mode: a copy of a backup that another program has made may have others. */
async function checkFile(file: string, { name, bytes, uid, gid, mode }: FileRecord): Promise<void> {
  const found = await stat(file);
  if (found.size !== bytes) {
    throw new SandboxError("incompatible", `${name} has ${found.size} bytes instead of ${bytes}`, {
      reason: "damaged",
    });
  }
  if (process.getuid?.() === 0 && (found.uid !== uid || found.gid !== gid)) await chown(file, uid, gid);
  if ((found.mode & 0o7777) !== mode) await chmod(file, mode);
}
