import type { ImageContext } from "./image-context.ts";
import type { Image } from "./image.ts";

export interface PruneImages {
  readonly organizationId: string;
  readonly unusedForMs: number;
  readonly dryRun: boolean;
}

/** Removes unnamed images that nothing uses and nothing used for a time. A use that begins meanwhile wins. */
export async function pruneImages(
  { images, retention, sandboxes }: ImageContext,
  { organizationId, unusedForMs, dryRun }: PruneImages,
): Promise<readonly Image[]> {
  const before = new Date(sandboxes.clock.now() - unusedForMs);
  const byId = new Map((await images.list(organizationId)).map((image) => [image.id, image]));
  const pruned: Image[] = [];
  for (const unused of await retention.unusedImages(organizationId, before)) {
    const image = byId.get(unused.id);
    if (image === undefined) continue;
    if (dryRun || (await retention.removeUnnamedImage(unused))) pruned.push(image);
  }
  if (!dryRun) await sandboxes.snapshots.removeUnwanted();
  return pruned;
}
