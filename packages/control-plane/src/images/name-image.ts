import { randomUUID } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageManifest } from "@opensandbox/wire/public/images.ts";
import { requireImage } from "#sandboxes/create-sandbox.ts";
import { baseOf } from "./build-image.ts";
import type { ImageContext } from "./image-context.ts";
import type { BuildLog, Image } from "./image.ts";
import { checkpointOfImage, imageOf, provideImage } from "./provide-image.ts";

export interface NameImage {
  readonly organizationId: string;
  readonly name: string;
  readonly manifest: ImageManifest;
}

/** Adds a named image, to be built by {@link buildNamedImage}. @throws `already_exists` when the name is taken */
export async function nameImage(context: ImageContext, { organizationId, name, manifest }: NameImage): Promise<Image> {
  requireImage(context.sandboxes, baseOf(manifest));
  const image = imageOf(context, { organizationId, manifest, name });
  await context.images.add(image);
  return image;
}

/** Builds a named image. It gets a checkpoint of its own, and so patches of its own. Its row records a failure. */
export async function buildNamedImage(
  context: ImageContext,
  image: Image,
  onLog: (log: BuildLog) => void,
  signal: AbortSignal,
): Promise<Image> {
  const { images, sandboxes } = context;
  try {
    const built = await checkpointOfImage(context, await provideImage(context, image, onLog, signal));
    const copy = {
      id: randomUUID(),
      name: image.id,
      workerId: image.workerId,
      createdAt: new Date(sandboxes.clock.now()),
    };
    if (!(await sandboxes.stores.checkpoints.copy(built.id, copy))) throw deleted();
    const ready = await images.finish(image.id, copy.id);
    if (ready !== undefined) return ready;
    await sandboxes.stores.checkpoints.remove({ ...built, id: copy.id });
    throw deleted();
  } catch (error) {
    await images.fail(image.id, error instanceof Error ? error.message : String(error));
    throw error;
  }
}

function deleted(): SandboxError<"unavailable"> {
  return new SandboxError("unavailable", "the image was deleted while it was being built");
}
