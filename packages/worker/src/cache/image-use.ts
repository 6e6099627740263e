import { allocatedBytes, type FileUse } from "#host/storage/disk-use.ts";
import type { CacheDirectories } from "./cache-directories.ts";
import { cacheItems } from "./cache-items.ts";
import { type CacheItem, lastUsesOf, linkedFromOutside } from "./select-removals.ts";

/** The place that an image takes on the disk, in allocated bytes. */
export interface ImageUse {
  /** Of all builds of the image. */
  readonly bytes: number;
  /** Of its warm machines, without the image's own files, to which they have links. */
  readonly templateBytes: number;
  readonly lastUsed: Date;
  /** Whether a machine or a snapshot has a link to its files. */
  readonly isInUse: boolean;
}

export interface ImageUses {
  /** By the name of the image. */
  readonly images: ReadonlyMap<string, ImageUse>;
  /** Of the files that every image needs: kernel, initramfs, agent disk, and the kit that builds images. */
  readonly sharedBytes: number;
}

/**
 * What each image takes. A file with several names counts once; blocks that files share by reflinks count for each.
 * @throws the error of the file system for a cache that this user may not read
 */
export async function usesOfImages(directories: CacheDirectories): Promise<ImageUses> {
  const items = await cacheItems(directories, () => undefined, "everything but images");
  const counted = new Set<string>();
  const linked = linkedFromOutside(items);
  const lastUses = lastUsesOf(items);
  const builds = Map.groupBy(items.filter(isImage), ({ image = "" }) => image);
  const templates = Map.groupBy(
    items.filter(({ kind }) => kind === "template"),
    ({ image }) => image,
  );
  // The files of images come first, so templates count without those.
  const bytes = new Map([...builds].map(([name, some]) => [name, allocatedBytes(filesOf(some), counted)]));
  const sharedBytes = allocatedBytes(
    filesOf(items.filter(({ kind }) => kind !== "image" && kind !== "template")),
    counted,
  );
  const images = new Map<string, ImageUse>();
  for (const [name, some] of builds) {
    const ofTemplates = templates.get(name) ?? [];
    images.set(name, {
      bytes: bytes.get(name) ?? 0,
      templateBytes: allocatedBytes(filesOf(ofTemplates), counted),
      lastUsed: new Date(Math.max(...some.map((item) => lastUses.get(item) ?? 0))),
      isInUse: some.some((item) => item.isNeeded) || [...some, ...ofTemplates].some((item) => linked.has(item)),
    });
  }
  return { images, sharedBytes };
}

function isImage({ kind, image }: CacheItem): boolean {
  return kind === "image" && image !== undefined;
}

function filesOf(items: readonly CacheItem[]): FileUse[] {
  return items.flatMap(({ files }) => files);
}
