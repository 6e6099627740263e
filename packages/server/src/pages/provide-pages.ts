import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Pages, repository } from "./build-pages.ts";

/**
 * The directory of built pages. An installed package contains it. A checkout builds it below the data directory when its
 * sources have changed, and removes earlier builds. @throws `unavailable` when the build fails
 */
export async function providePages(pages: Pages, dataDirectory: string): Promise<string> {
  // A checkout lacks this directory.
  const packaged = join(repository, pages.packagedAs);
  if (existsSync(packaged)) return packaged;
  const home = join(dataDirectory, pages.packagedAs);
  const name = await hashOfSources(pages.sources);
  const built = join(home, name);
  if (existsSync(built)) return built;
  const unfinished = join(home, `${name}.${process.pid}`);
  await mkdir(home, { recursive: true });
  await pages.build(unfinished);
  for (const earlier of await readdir(home)) {
    if (!earlier.startsWith(name)) await rm(join(home, earlier), { recursive: true });
  }
  await rename(unfinished, built);
  return built;
}

async function hashOfSources(sources: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const source of sources) {
    for (const file of await filesOf(source)) hash.update(`${file}\0`).update(await readFile(join(repository, file)));
  }
  return hash.digest("hex").slice(0, 32);
}

/** The files below a path, or the path itself, in a fixed order. */
async function filesOf(path: string): Promise<string[]> {
  if (path.endsWith(".json")) return [path];
  const entries = await readdir(join(repository, path), { withFileTypes: true, recursive: true });
  return entries
    .filter(
      (entry) => entry.isFile() && !/\.test\.ts$|\/(node_modules|dist)\//.test(join(entry.parentPath, entry.name)),
    )
    .map((entry) => join(entry.parentPath, entry.name).slice(repository.length + 1))
    .toSorted();
}
