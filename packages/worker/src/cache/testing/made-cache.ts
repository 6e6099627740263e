import { existsSync } from "node:fs";
import { link, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { lockFile } from "#host/file-lock.ts";
import { provideArtifact } from "#images/artifact.ts";
import type { SnapshotManifest } from "#snapshots/manifest.ts";
import { SnapshotStore } from "#snapshots/snapshot-store.ts";
import { lockOf } from "#templates/templates.ts";
import type { CacheDirectories } from "../cache-directories.ts";

/** In memory, flushing costs nothing. */
export const memoryDirectory = "/dev/shm";

/** Directories of a host that has started nothing yet. */
export async function makeCacheDirectories(parent = tmpdir()): Promise<CacheDirectories> {
  const dataDirectory = await mkdtemp(join(existsSync(parent) ? parent : tmpdir(), "osb-cache-"));
  return {
    dataDirectory,
    imagesDirectory: join(dataDirectory, "images"),
    templatesDirectory: join(dataDirectory, "templates"),
  };
}

/** The key of a template that stands for the shape with that disk size. */
export function templateKeyOf(diskMib: number): string {
  return diskMib.toString(16).padStart(32, "0");
}

/** Provides a workspace as a start does, with a file of `bytes` in it. Returns the file. */
export async function provideTestWorkspace(
  { imagesDirectory }: CacheDirectories,
  diskMib: number,
  bytes = 64 * 1024,
): Promise<string> {
  const { directory } = await provideArtifact({
    ...{ kind: "workspace", imagesDirectory, inputs: { diskMib }, needMib: 1, signal: undefined },
    async build(target) {
      await writeFile(join(target, "workspace.ext4"), Buffer.alloc(bytes, 1));
      return {};
    },
  });
  return join(directory, "workspace.ext4");
}

/** Provides a build of an image, with a file of `bytes` in it. Returns the file. */
export async function provideTestImage(
  { imagesDirectory }: CacheDirectories,
  name: string,
  bytes = 128 * 1024,
): Promise<string> {
  const { directory } = await provideArtifact({
    ...{ kind: "image", imagesDirectory, inputs: { name, bytes }, needMib: 1, signal: undefined },
    async build(target) {
      await writeFile(join(target, "rootfs.ext4"), Buffer.alloc(bytes, 3));
      return { name };
    },
  });
  return join(directory, "rootfs.ext4");
}

/** Makes a template unless it is there, as a worker does: alone, with links to the workspace's files. */
export async function provideTestTemplate(
  { templatesDirectory }: CacheDirectories,
  diskMib: number,
  workspace: string,
  bytes = 256 * 1024,
): Promise<void> {
  const key = templateKeyOf(diskMib);
  const store = new SnapshotStore(templatesDirectory, { passable: true });
  using _lock = await lockFile(await lockOf({ templatesDirectory }, key), { wait: true });
  if ((await store.find(key)) !== undefined) return;
  await using unfinished = await store.createUnfinished(key, "w-1");
  await writeFile(join(unfinished.directory, "memory.base"), Buffer.alloc(bytes, 2));
  await link(workspace, join(unfinished.directory, "workspace.base"));
  const shape = { vcpus: 1, memoryMib: 512, workspaceMib: diskMib };
  await unfinished.publish({ id: key, shape, files: { disks: [] } } as unknown as SnapshotManifest);
}
