import { createHash, randomUUID } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageManifest } from "@opensandbox/wire/public/images.ts";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import { requireImage } from "#sandboxes/create-sandbox.ts";
import { baseOf, buildImage } from "./build-image.ts";
import type { ImageContext } from "./image-context.ts";
import type { BuildLog, Image } from "./image.ts";

export interface ProvideImage {
  readonly organizationId: string;
  readonly manifest: ImageManifest;
}

/** The image of that content, built unless there is one. However many ask for it at once, it is built once. */
export async function provideImage(
  context: ImageContext,
  { organizationId, manifest }: ProvideImage,
  tell: (log: BuildLog) => void,
  signal: AbortSignal,
): Promise<Image> {
  const { images, builds, sandboxes } = context;
  requireImage(sandboxes, baseOf(manifest));
  const contentHash = contentHashOf(manifest);
  const key = `${organizationId} ${contentHash}`;
  return builds.run(
    key,
    async (tellAll) => {
      const found = await images.findByContent(organizationId, contentHash);
      if (found === undefined) return build(context, imageOf(context, { organizationId, manifest }), tellAll);
      tellAll({ step: 0, type: "cache_hit", message: "these steps have been built before" });
      await images.touch(found.id, new Date(sandboxes.clock.now()));
      return found;
    },
    tell,
    signal,
  );
}

/** The row of an image that is to be built. */
export function imageOf(
  { sandboxes: { worker, clock } }: ImageContext,
  { organizationId, manifest, name }: ProvideImage & { readonly name?: string },
): Image {
  const now = new Date(clock.now());
  return {
    id: randomUUID(),
    organizationId,
    contentHash: contentHashOf(manifest),
    name,
    manifest,
    status: "building",
    workerId: worker.id,
    createdAt: now,
    lastUsedAt: now,
  };
}

/** The checkpoint of an image that is ready. */
export async function checkpointOfImage({ sandboxes }: ImageContext, image: Image): Promise<Checkpoint> {
  const checkpoint =
    image.checkpointId === undefined ? undefined : await sandboxes.checkpoints.find(image.checkpointId);
  if (checkpoint !== undefined) return checkpoint;
  throw new SandboxError("unavailable", "the image was deleted meanwhile: try again");
}

/** As the published client computes it: how much memory it is built with does not matter. */
function contentHashOf({ base, steps }: ImageManifest): string {
  return createHash("sha256").update(JSON.stringify({ base, steps })).digest("hex");
}

async function build({ sandboxes, images }: ImageContext, image: Image, tell: (log: BuildLog) => void): Promise<Image> {
  await images.add(image);
  const { id, organizationId, manifest } = image;
  try {
    // Whoever asked for it may go away: others may be waiting for the same.
    const checkpoint = await buildImage(sandboxes, { organizationId, name: id, manifest }, tell, sandboxes.ending);
    const ready = await images.finish(id, checkpoint.id);
    if (ready !== undefined) return ready;
    await sandboxes.checkpoints.remove(checkpoint);
    await sandboxes.snapshots.removeUnwanted();
    throw new SandboxError("unavailable", "the image was deleted while it was built");
  } catch (error) {
    // Nobody knows its name: who wants it asks again, and it is built again.
    await images.remove(id);
    throw error;
  }
}
