import type { Progress } from "@opensandbox/wire/worker/worker.ts";
import { imageStore, type WorkerOptions } from "./open-worker.ts";

/** An image as a list shows it. */
export interface ImageSummary {
  readonly name: string;
  /** Empty until it has been built. */
  readonly hash: string;
  readonly built: boolean;
  /** What it takes on the host's disk. */
  readonly bytes: number;
  readonly createdAt?: string;
}

type ImageOptions = Pick<WorkerOptions, "imagesDirectory" | "debianMirror">;

/** Builds the image when it is not there. */
export async function buildImage(
  options: ImageOptions,
  name: string,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<ImageSummary> {
  await imageStore(options).provide(name, { onProgress, signal });
  const summary = (await listImages(options)).find((image) => image.name === name);
  if (summary === undefined) throw new Error(`${name} was built and is not listed`);
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
