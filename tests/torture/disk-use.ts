import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path";
import { newSnapshotId, type SandboxId, type SnapshotId } from "@opensandbox/wire/ids.ts";
import { startTestHost } from "../../packages/worker/src/testing/test-host.ts";

const never = new AbortController().signal;

/** In bytes that only the data directory uses: files shared with images and templates do not count. */
export interface DiskUse {
  readonly before: number;
  /** The disk use of this many idle sandboxes of one template. */
  readonly idle: number;
  /** The disk use after one of them has written `writtenBytes`. */
  readonly written: number;
  /** The disk use after all are deleted, except for a checkpoint of the one that wrote. */
  readonly checkpoint: number;
  /** The disk use after that checkpoint is deleted too, while a fork of it lives on. */
  readonly fork: number;
  readonly after: number;
}

export const writtenBytes = 32 * 2 ** 20;

/**
 * Measures the disk space of sandboxes from their creation to their deletion. @throws when a checkpoint has lost
 * content after the deletion of everything that shared it
 */
export async function diskUse(count: number): Promise<DiskUse> {
  await using host = await startTestHost();
  const own = (): Promise<number> => ownBytes(host.dataDirectory);
  const before = await own();
  const ids: SandboxId[] = [];
  for (let index = 0; index < count; index += 1) ids.push((await host.start()).id);
  for (const id of ids) await host.worker.guest(id).files.sync(never);
  const idle = await own();

  const [writer = ids[0]!] = ids;
  await host.shell(
    writer,
    `head -c ${writtenBytes} /dev/urandom >/workspace/file; sha256sum /workspace/file >~/sum; sync`,
  );
  const written = await own();
  const snapshotId: SnapshotId = newSnapshotId();
  await host.worker.captureSandbox(writer, { snapshotId, contents: "disks" }, never);
  for (const id of ids) await host.worker.stopSandbox(id);
  const checkpoint = await own();

  const fork = await host.start({ kind: "snapshot", snapshotId, identity: "new" });
  await host.worker.removeSnapshot(snapshotId);
  await host.shell(fork.id, "sha256sum -c --quiet ~/sum");
  const forked = await own();
  await host.worker.stopSandbox(fork.id);
  return { before, idle, written, checkpoint, fork: forked, after: await own() };
}

/** The disk space of the files below a directory that have no other name. */
async function ownBytes(directory: string): Promise<number> {
  const found = new Map<number, { names: number; readonly links: number; readonly bytes: number }>();
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const { ino, nlink, blocks } = await lstat(join(entry.parentPath, entry.name));
    const file = found.get(ino) ?? { names: 0, links: nlink, bytes: blocks * 512 };
    file.names += 1;
    found.set(ino, file);
  }
  return [...found.values()].filter(({ names, links }) => names === links).reduce((sum, { bytes }) => sum + bytes, 0);
}
