import type { Progress } from "@opensandbox/wire/worker/worker.ts";
import { imageStore, type WorkerOptions } from "./open-worker.ts";

/** One line of a list of images. */
export interface ImageSummary {
  readonly name: string;
  /** Empty until the image has been built. */
  readonly hash: string;
  readonly built: boolean;
  /** Disk space of all its builds. */
  readonly bytes: number;
  readonly createdAt?: string;
}

type ImageOptions = Pick<WorkerOptions, "imagesDirectory" | "debianMirror" | "guestKernel">;

/** Builds the image when it is missing. */
export async function buildImage(
  options: ImageOptions,
  name: string,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<ImageSummary> {
  await imageStore(options).provide(name, { onProgress, signal });
  const summary = (await listImages(options)).find((image) => image.name === name);
  if (summary === undefined) throw new Error(`the image ${name} was built but is not listed`);
  return summary;
}

export async function listImages(options: ImageOptions): Promise<readonly ImageSummary[]> {
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
