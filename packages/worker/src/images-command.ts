import { SandboxError } from "@opensandbox/wire/errors.ts";
import { ImageArchive } from "#images/oci/image-archive.ts";
import { formatImageReference, parseImageReference } from "@opensandbox/wire/worker/image-reference.ts";
import type { Progress } from "@opensandbox/wire/worker/worker.ts";
import type { CacheDirectories } from "./cache/cache-directories.ts";
import { usesOfImages } from "./cache/image-use.ts";
import { type ImageOptions, imageStore } from "./open-worker.ts";

/** One line of a list of images. */
export interface ImageSummary {
  readonly name: string;
  /** Empty until the image has been built. */
  readonly hash: string;
  readonly built: boolean;
  /** Allocated bytes on the disk, of all its builds. */
  readonly bytes: number;
  readonly createdAt?: string;
}

/** The place of one image on the disk. */
export interface ListedImage extends ImageSummary {
  /** Allocated bytes of its warm machines, without the files of the image. */
  readonly templateBytes: number;
  /** Allocated bytes of what all images share, such as the kernel; part of no other number here. */
  readonly sharedBytes: number;
  /** When a sandbox last started from it. Absent: it has no build. */
  readonly lastUsedAt?: string;
  /** Whether a sandbox, a snapshot or a checkpoint has a link to its files. */
  readonly inUse: boolean;
}

/** Builds the image when it is missing. */
export async function buildImage(
  options: ImageOptions,
  name: string,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<ImageSummary> {
  const { name: listed } = await imageStore(options).provide(name, { onProgress, signal });
  return await summaryOf(options, listed);
}

/**
 * Asks the registry what the name means now, and pulls that image unless it is there.
 * @throws `invalid_argument` for a name that is no reference
 */
export async function pullImage(
  options: ImageOptions,
  name: string,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<ImageSummary> {
  // A name without a tag means the newest image here, as it does for Docker.
  const reference = formatImageReference(parseImageReference(name));
  const { name: listed } = await imageStore(options).provide(reference, { onProgress, signal, refresh: true });
  return await summaryOf(options, listed);
}

/**
 * Makes an image of an archive, such as `docker save` writes, under its own name or `name`.
 * @throws `invalid_argument` for an archive that cannot be used, or that has no name; `not_found`
 */
export async function loadImage(
  options: ImageOptions,
  { file, name }: { readonly file: string; readonly name?: string },
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<ImageSummary> {
  const archive = await ImageArchive.open(file);
  const found = name ?? archive.name;
  if (found === undefined) throw new SandboxError("invalid_argument", `${file} gives its image no name: choose one`);
  const reference = formatImageReference(parseImageReference(found));
  const { name: listed } = await imageStore(options).provide(reference, { onProgress, signal, archive });
  return await summaryOf(options, listed);
}

async function summaryOf(options: ImageOptions, name: string): Promise<ImageSummary> {
  const summary = (await summaries(options)).find((image) => image.name === name);
  if (summary === undefined) throw new Error(`the image ${name} was built but is not listed`);
  return summary;
}

/** Every image that has a recipe or a build, with its place on the disk. */
export async function listImages(options: ImageOptions & CacheDirectories): Promise<readonly ListedImage[]> {
  const { images, sharedBytes } = await usesOfImages(options);
  return (await summaries(options)).map((summary) => {
    const use = summary.built ? images.get(summary.name) : undefined;
    // Between the two readings of the directory, a build may have come or gone.
    if (use === undefined) return { ...summary, templateBytes: 0, sharedBytes, inUse: false };
    const { bytes, templateBytes, lastUsed, isInUse } = use;
    return { ...summary, bytes, templateBytes, sharedBytes, lastUsedAt: lastUsed.toISOString(), inUse: isInUse };
  });
}

async function summaries(options: ImageOptions): Promise<readonly ImageSummary[]> {
  const entries = await imageStore(options).list();
  return entries.map(({ name, build }) =>
    build === undefined
      ? { name, hash: "", built: false, bytes: 0 }
      : { name, hash: build.hash, built: true, bytes: build.allocatedBytes, createdAt: build.createdAt },
  );
}

export async function removeImage(options: ImageOptions, name: string): Promise<void> {
  await imageStore(options).remove(name);
}
