import type { ImageContext } from "./image-context.ts";
import type { Image } from "./image.ts";

/**
 * Removes an image; sandboxes from it are not affected. When no other name has the same content, the build result is
 * removed too, which frees its disk space.
 */
export async function deleteImage({ images, sandboxes }: ImageContext, image: Image): Promise<void> {
  const others = (await images.list(image.organizationId)).filter(
    ({ id, contentHash }) => id !== image.id && contentHash === image.contentHash,
  );
  const last = image.name !== undefined && others.every(({ name }) => name === undefined);
  for (const { id, checkpointId } of last ? [image, ...others] : [image]) {
    await images.remove(id);
    const checkpoint = checkpointId === undefined ? undefined : await sandboxes.stores.checkpoints.find(checkpointId);
    if (checkpoint !== undefined) await sandboxes.stores.checkpoints.remove(checkpoint);
  }
  await sandboxes.snapshots.removeUnwanted();
}
