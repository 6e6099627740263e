import { describeError } from "@opensandbox/wire/errors.ts";
import { isBuilderGone } from "#lifecycle/builder.ts";
import type { ImageContext } from "./image-context.ts";

/** Marks images that an exited server was building as failed and removes their partial checkpoints. */
export async function reconcileImages({ images, sandboxes }: ImageContext): Promise<void> {
  const { stores, log } = sandboxes;
  try {
    for (const { id, name, workerId } of await images.listBuilding()) {
      if (!(await isBuilderGone(sandboxes, workerId))) continue;
      if (name === undefined) await images.remove(id);
      else await images.fail(id, "the server exited while the image was being built");
    }
    for (const checkpoint of await stores.checkpoints.listUnnamed()) {
      if (await isBuilderGone(sandboxes, checkpoint.serverId ?? checkpoint.workerId))
        await stores.checkpoints.remove(checkpoint);
    }
  } catch (error) {
    log("error", "cannot reconcile the images of an exited server: the next start tries again", describeError(error));
  }
}
