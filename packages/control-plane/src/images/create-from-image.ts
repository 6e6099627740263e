import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageManifest } from "@opensandbox/wire/public/images.ts";
import { forkOf, type Fork } from "#checkpoints/fork-checkpoint.ts";
import { createSandbox, type CreatedSandbox } from "#sandboxes/create-sandbox.ts";
import type { ImageContext } from "./image-context.ts";
import type { BuildLog, Image } from "./image.ts";
import { checkpointOfImage, provideImage } from "./provide-image.ts";

export interface CreateFromImage {
  readonly organizationId: string;
  readonly image: { readonly manifest: ImageManifest } | { readonly name: string };
  readonly fork: Fork;
  readonly idempotencyKey?: string | undefined;
}

/** Creates a sandbox from a named image, or from steps that are built first unless they were built before. */
export async function createFromImage(
  context: ImageContext,
  { organizationId, image: wanted, fork, idempotencyKey }: CreateFromImage,
  onLog: (log: BuildLog) => void,
  signal: AbortSignal,
): Promise<CreatedSandbox> {
  const image =
    "manifest" in wanted
      ? await provideImage(context, { organizationId, manifest: wanted.manifest }, onLog, signal)
      : await namedImage(context, { organizationId, name: wanted.name }, onLog, signal);
  const create = forkOf(await checkpointOfImage(context, image), { organizationId, fork, idempotencyKey });
  return createSandbox(
    context.sandboxes,
    create,
    ({ step }) => onLog({ step: 0, type: "progress", message: step }),
    signal,
  );
}

/** The image of that name; waits for one that is being built. */
async function namedImage(
  context: ImageContext,
  { organizationId, name }: { readonly organizationId: string; readonly name: string },
  onLog: (log: BuildLog) => void,
  signal: AbortSignal,
): Promise<Image> {
  const { images, sandboxes } = context;
  const image = await images.get(organizationId, name);
  if (image.status === "failed") {
    throw new SandboxError("invalid_argument", `snapshot is not ready: it failed: ${image.error ?? ""}`);
  }
  if (image.status === "building") return provideImage(context, image, onLog, signal);
  await images.touch(image.id, new Date(sandboxes.clock.now()));
  return image;
}
