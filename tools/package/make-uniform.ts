import { chmod, readdir, stat } from "node:fs/promises";
import { join } from "node:path";

/** Sets modes that do not depend on the checkout's. Programs stay executable. */
export async function makeUniform(directory: string): Promise<void> {
  await chmod(directory, 0o755);
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isSymbolicLink()) continue;
    const path = join(entry.parentPath, entry.name);
    const runs = entry.isDirectory() || ((await stat(path)).mode & 0o100) !== 0;
    await chmod(path, runs ? 0o755 : 0o644);
  }
}
