import { randomBytes } from "node:crypto";
import { cp, lchown, lstat, readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";

/** Moves a file or directory to another file system. It appears there complete, before the old one is removed. */
export async function moveAcross(from: string, to: string): Promise<void> {
  const temporary = join(dirname(to), `.opensandbox-${randomBytes(8).toString("hex")}`);
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(temporary, { recursive: true, force: true }));
  await cp(from, temporary, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
  await copyOwners(from, temporary);
  await rename(temporary, to);
  undo.move();
  await rm(from, { recursive: true, force: true });
}

async function copyOwners(from: string, to: string): Promise<void> {
  const stats = await lstat(from);
  await lchown(to, stats.uid, stats.gid);
  if (!stats.isDirectory()) return;
  for (const name of await readdir(from)) await copyOwners(join(from, name), join(to, name));
}
