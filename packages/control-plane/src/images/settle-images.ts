import { describeError } from "@opensandbox/wire/errors.ts";
import type { ImageContext } from "./image-context.ts";

/** Images that an ended server process was building have failed; what they had made so far goes. */
export async function settleImages({ images, sandboxes }: ImageContext): Promise<void> {
  const { worker, checkpoints, log } = sandboxes;
  const isLeft = (workerId: string): boolean => workerId === worker.id || !sandboxes.isWorkerAlive(workerId);
  try {
    for (const { id, name, workerId } of await images.listBuilding()) {
      if (!isLeft(workerId)) continue;
      if (name === undefined) await images.remove(id);
      else await images.fail(id, "the server ended while it was built");
    }
    for (const checkpoint of await checkpoints.listUnnamed()) {
      if (isLeft(checkpoint.workerId)) await checkpoints.remove(checkpoint);
    }
  } catch (error) {
    log("error", "the images of an ended server could not be settled", describeError(error));
  }
}
