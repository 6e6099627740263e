import { basename, dirname, join } from "node:path";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "#host/log.ts";
import { filesBelow, type FileUse } from "#host/storage/disk-use.ts";
import { lastUseOf } from "#host/storage/last-use.ts";
import { namesIn } from "#host/storage/names-in.ts";
import { imageNameOf } from "#images/artifact.ts";
import type { CacheDirectories } from "./cache-directories.ts";
import type { CacheItem, CacheKind } from "./select-removals.ts";
import { type SymbolicUsers, symbolicUsersOf } from "./symbolic-users.ts";

/** Kinds of artifacts by the beginning of their directories' names. Directories of other names are not collected. */
const artifactKinds = {
  image: "image",
  kit: "kit",
  "kit-kernel": "guest kernel",
  initramfs: "initramfs",
  agent: "agent disk",
  "agent-bundle": "agent bundle",
  workspace: "workspace",
} as const satisfies Record<string, CacheKind>;

/**
 * Which artifacts count as needed although nothing has a link to them: the last used build of each image and of each
 * other kind, or everything except images.
 */
export type Keeping = "current builds" | "everything but images";

/**
 * Everything in the directories of images and templates. Where a data directory that uses one of them by symbolic links
 * cannot be read, each item there counts as needed, and `log` gets a warning.
 */
export async function cacheItems(
  directories: CacheDirectories,
  log: Log,
  keeping: Keeping = "current builds",
): Promise<readonly CacheItem[]> {
  const { imagesDirectory, templatesDirectory } = directories;
  const found = await artifactsIn(imagesDirectory);
  const artifacts = keeping === "current builds" ? withCurrent(found) : withAllButImages(found);
  const templates = withImages(await templatesIn(templatesDirectory), artifacts);
  const ofTemplates = templates.flatMap(({ files }) => files.flatMap(({ target }) => target ?? []));
  const [ofImages, ofTheTemplates] = [await usersOf(imagesDirectory, log), await usersOf(templatesDirectory, log)];
  return [...artifacts, ...templates].map((item) => {
    const directory = `${pathOf(item, directories)}/`;
    const users = item.kind === "template" ? ofTheTemplates : ofImages;
    const isLinkedTo =
      users.unreadable.length > 0 || [...ofTemplates, ...users.targets].some((target) => target.startsWith(directory));
    const { kind, name, lastUsed, files, isNeeded, image } = item;
    const known = { kind, name, lastUsed, files, isNeeded: isNeeded || isLinkedTo };
    return image === undefined ? known : { ...known, image };
  });
}

/** Names the image of each template: the one whose file the template has a link to. */
function withImages(templates: readonly CacheItem[], artifacts: readonly CacheItem[]): readonly CacheItem[] {
  const named = artifacts.flatMap(({ image, name, files }) => (image === undefined ? [] : [{ image, name, files }]));
  const byInode = new Map(named.flatMap(({ image, files }) => files.map(({ inode }) => [inode, image] as const)));
  const byName = new Map(named.map(({ image, name }) => [name, image]));
  const imageOf = ({ inode, target }: FileUse): string | undefined =>
    byInode.get(inode) ?? (target === undefined ? undefined : byName.get(basename(dirname(target))));
  return templates.map((template) => {
    const image = template.files.map(imageOf).find((name) => name !== undefined);
    return image === undefined ? template : { ...template, image };
  });
}

async function usersOf(cache: string, log: Log): Promise<SymbolicUsers> {
  const users = await symbolicUsersOf(cache);
  for (const { dataDirectory, cause } of users.unreadable) {
    log(
      "warn",
      "a data directory that uses this cache by symbolic links cannot be read: nothing is removed from the cache",
      {
        ...{ cache, dataDirectory },
        ...describeError(cause),
      },
    );
  }
  return users;
}

/** The directory of an item. */
export function pathOf({ kind, name }: Pick<CacheItem, "kind" | "name">, directories: CacheDirectories): string {
  if (kind === "template") return join(directories.templatesDirectory, name);
  if (kind === "unnamed image") return snapshotDirectory(directories.dataDirectory, name);
  return join(directories.imagesDirectory, name);
}

/** The files of a snapshot in the data directory. */
export async function filesOfSnapshot(dataDirectory: string, snapshotId: string): Promise<readonly FileUse[]> {
  return await filesBelow(snapshotDirectory(dataDirectory, snapshotId));
}

function snapshotDirectory(dataDirectory: string, snapshotId: string): string {
  return join(dataDirectory, "snapshots", snapshotId);
}

async function templatesIn(directory: string): Promise<readonly CacheItem[]> {
  const names = (await namesIn(directory)).filter((name) => /^[0-9a-f]{32}$/.test(name));
  const items = await inTurn(names, (name) => itemOf("template", directory, name));
  return items.filter((item) => item !== undefined);
}

interface ArtifactItem extends CacheItem {
  /** Only the last used artifact of a series is current. */
  readonly series: string;
}

async function artifactsIn(directory: string): Promise<readonly ArtifactItem[]> {
  const found = await inTurn(await namesIn(directory), async (name): Promise<ArtifactItem | undefined> => {
    const [, prefix = ""] = /^([a-z-]+)-[0-9a-f]{24}$/.exec(name) ?? [];
    if (!Object.hasOwn(artifactKinds, prefix)) return undefined;
    const kind = artifactKinds[prefix as keyof typeof artifactKinds];
    const item = await itemOf(kind, directory, name);
    if (item === undefined) return undefined;
    const image = kind === "image" ? await imageNameOf(join(directory, name)) : undefined;
    return image === undefined ? { ...item, series: kind } : { ...item, image, series: `${kind} ${image}` };
  });
  return found.filter((item) => item !== undefined);
}

/** Undefined: it was removed meanwhile. */
async function itemOf(kind: CacheKind, directory: string, name: string): Promise<CacheItem | undefined> {
  const path = join(directory, name);
  const lastUsed = await lastUseOf(path);
  if (lastUsed === undefined) return undefined;
  return { kind, name, lastUsed, files: await filesBelow(path), isNeeded: false };
}

/** Marks the last used build of each image, and of each other kind, as needed. A workspace takes a second to make. */
function withCurrent(artifacts: readonly ArtifactItem[]): readonly ArtifactItem[] {
  const current = new Map<string, ArtifactItem>();
  for (const artifact of artifacts) {
    const known = current.get(artifact.series);
    if (known === undefined || artifact.lastUsed > known.lastUsed) current.set(artifact.series, artifact);
  }
  return artifacts.map((artifact) => ({
    ...artifact,
    isNeeded: artifact.kind !== "workspace" && current.get(artifact.series) === artifact,
  }));
}

function withAllButImages(artifacts: readonly ArtifactItem[]): readonly ArtifactItem[] {
  return artifacts.map((artifact) => ({ ...artifact, isNeeded: artifact.kind !== "image" }));
}

async function inTurn<Value, Result>(
  values: readonly Value[],
  work: (value: Value) => Promise<Result>,
): Promise<readonly Result[]> {
  const results: Result[] = [];
  for (const value of values) results.push(await work(value));
  return results;
}
