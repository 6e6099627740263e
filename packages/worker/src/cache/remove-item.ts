import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { failpoint } from "#host/failpoints.ts";
import { lockFile, removeLockFile } from "#host/file-lock.ts";
import { filesBelow } from "#host/storage/disk-use.ts";
import { directoryLockOf } from "#host/storage/directory-lock.ts";
import type { ImmutableDirectories } from "#host/storage/immutable-directories.ts";
import { lastUseOf } from "#host/storage/last-use.ts";
import { namesIn } from "#host/storage/names-in.ts";
import { artifactDirectories } from "#images/artifact.ts";
import { templateDirectories } from "#snapshots/snapshot-store.ts";
import type { CacheDirectories } from "./cache-directories.ts";
import { pathOf } from "./cache-items.ts";
import type { CacheItem } from "./select-removals.ts";

/**
 * Removes an item unless it has been used since it was selected. The lock that starts share while they link files is
 * taken alone, and use and links are compared again under it, so the use wins every race.
 * @returns whether the item was removed
 */
export async function removeItem(item: CacheItem, directories: CacheDirectories): Promise<boolean> {
  const path = pathOf(item, directories);
  const lock = directoryLockOf(path);
  using held = await lockFile(lock, { wait: false });
  if (held === undefined) return false;
  if ((await lastUseOf(path))?.getTime() !== item.lastUsed.getTime()) return false;
  const links = new Map(item.files.map((file) => [file.inode, file.links]));
  const present = await filesBelow(path);
  if (present.some((file) => file.links > (links.get(file.inode) ?? 0))) return false;
  await failpoint("remove item");
  await storeOf(item, directories).remove(basename(path));
  removeLockFile(lock);
  return true;
}

/** Removes what earlier removals and builds of dead processes have left, and the locks of directories that are gone. */
export async function removeLeftovers({ imagesDirectory, templatesDirectory }: CacheDirectories): Promise<void> {
  const artifacts = artifactDirectories(imagesDirectory);
  for (const leftover of await artifacts.leftovers()) {
    using held = await lockFile(join(imagesDirectory, "locks", leftover.label), { wait: false });
    if (held !== undefined) await artifacts.removeLeftover(leftover);
  }
  const templates = templateDirectories(templatesDirectory);
  for (const leftover of await templates.leftovers()) {
    // Templates that a dead worker was making are removed when its machines are adopted.
    if (leftover.kind !== "removed") continue;
    using held = await lockFile(join(templatesDirectory, "locks", leftover.label), { wait: false });
    if (held !== undefined) await templates.removeLeftover(leftover);
  }
  for (const parent of [imagesDirectory, templatesDirectory]) await removeUnusedLocks(parent);
}

async function removeUnusedLocks(parent: string): Promise<void> {
  for (const name of await namesIn(join(parent, "locks"))) {
    const directory = join(parent, name);
    if (existsSync(directory)) continue;
    const lock = directoryLockOf(directory);
    using held = await lockFile(lock, { wait: false });
    if (held !== undefined && !existsSync(directory)) removeLockFile(lock);
  }
}

function storeOf({ kind, name }: CacheItem, directories: CacheDirectories): ImmutableDirectories {
  if (kind === "unnamed image") throw new Error(`snapshot ${name} goes with the row that refers to it`);
  return kind === "template"
    ? templateDirectories(directories.templatesDirectory)
    : artifactDirectories(directories.imagesDirectory);
}
