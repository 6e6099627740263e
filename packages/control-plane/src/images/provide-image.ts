import { createHash, randomUUID } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageManifest } from "@opensandbox/wire/public/images.ts";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import { requireImage } from "#sandboxes/create-sandbox.ts";
import { baseOf, buildImage } from "./build-image.ts";
import { builderId } from "#lifecycle/builder.ts";
import type { ImageContext } from "./image-context.ts";
import type { BuildLog, Image } from "./image.ts";

export interface ProvideImage {
  readonly organizationId: string;
  readonly manifest: ImageManifest;
}

/** The image of that content, built unless it exists. Concurrent callers share one build. */
export async function provideImage(
  context: ImageContext,
  { organizationId, manifest }: ProvideImage,
  onLog: (log: BuildLog) => void,
  signal: AbortSignal,
): Promise<Image> {
  const { images, builds, sandboxes } = context;
  requireImage(sandboxes, baseOf(manifest));
  const contentHash = contentHashOf(manifest);
  const key = `${organizationId} ${contentHash}`;
  return builds.run(
    key,
    async (logToAll) => {
      const found = await images.findByContent(organizationId, contentHash);
      const isKept = found !== undefined && (await images.touch(found.id, new Date(sandboxes.clock.now())));
      if (!isKept) return build(context, imageOf(context, { organizationId, manifest }), logToAll);
      logToAll({ step: 0, type: "cache_hit", message: "these steps were built before" });
      return found;
    },
    onLog,
    signal,
  );
}

/** The row of an image to build. */
export function imageOf(
  { sandboxes }: ImageContext,
  { organizationId, manifest, name }: ProvideImage & { readonly name?: string },
): Image {
  const now = new Date(sandboxes.clock.now());
  return {
    id: randomUUID(),
    organizationId,
    contentHash: contentHashOf(manifest),
    name,
    manifest,
    status: "building",
    workerId: builderId(sandboxes),
    createdAt: now,
    lastUsedAt: now,
  };
}

/** The checkpoint of a ready image. */
export async function checkpointOfImage({ sandboxes }: ImageContext, image: Image): Promise<Checkpoint> {
  const checkpoint =
    image.checkpointId === undefined ? undefined : await sandboxes.stores.checkpoints.find(image.checkpointId);
  if (checkpoint !== undefined) return checkpoint;
  throw new SandboxError("unavailable", "the image was deleted in the meantime: try again");
}

/** The hash that the published client computes, which leaves out the sizes of memory. */
function contentHashOf({ base, steps }: ImageManifest): string {
  return createHash("sha256").update(JSON.stringify({ base, steps })).digest("hex");
}

async function build(
  { sandboxes, images, onBuilt }: ImageContext,
  image: Image,
  onLog: (log: BuildLog) => void,
): Promise<Image> {
  await images.add(image);
  const { id, organizationId, manifest } = image;
  try {
    // Other callers may wait for the same build, so it continues when this one disconnects.
    const checkpoint = await buildImage(
      sandboxes,
      { organizationId, name: id, manifest },
      onLog,
      sandboxes.shutdown.ending,
    );
    const ready = await images.finish(id, checkpoint.id);
    onBuilt();
    if (ready !== undefined) return ready;
    await sandboxes.stores.checkpoints.remove(checkpoint);
    await sandboxes.snapshots.removeUnwanted();
    throw new SandboxError("unavailable", "the image was deleted while it was being built");
  } catch (error) {
    // An unnamed image has no use for a failed row: the next create builds it again.
    await images.remove(id);
    throw error;
  }
}
