import { describeError } from "@opensandbox/wire/errors.ts";
import { reconcileCheckpoints } from "#checkpoints/reconcile-checkpoints.ts";
import { reconcileImages } from "#images/reconcile-images.ts";
import { reconcileTemplates } from "../templates/manage-templates.ts";
import type { TemplateContext } from "../templates/template-context.ts";
import type { SharedGates } from "../servers/shared-gates.ts";
import { reconcileUnplaced } from "./reconcile-sandboxes.ts";

/** Brings to an end what ended servers have left in the rows. Sandboxes are reconciled when their workers answer. */
export async function takeOver(templates: TemplateContext, gates: SharedGates): Promise<void> {
  const { images } = templates;
  const { sandboxes } = images;
  try {
    await gates.passInherited();
    await reconcileUnplaced(sandboxes);
    await reconcileCheckpoints(sandboxes);
    await reconcileImages(images);
    await reconcileTemplates(templates);
    await sandboxes.snapshots.removeUnwanted();
  } catch (error) {
    sandboxes.log("error", "cannot take over what an ended server has left", describeError(error));
  }
}
