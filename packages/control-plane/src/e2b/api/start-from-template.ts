import { SandboxError } from "@opensandbox/wire/errors.ts";
import { templateNameFrom } from "@opensandbox/wire/e2b/snapshots.ts";
import { forkCheckpoint, forkOf, type Fork } from "#checkpoints/fork-checkpoint.ts";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import { createFromImage } from "#images/create-from-image.ts";
import { createSandbox } from "#sandboxes/create-sandbox.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { findReadyTemplate } from "#templates/find-template.ts";
import { type E2bContext, orMissing } from "../e2b-context.ts";

/** Names by which clients ask for this server's default image. */
const defaultNames: ReadonlySet<string> = new Set(["", "base", "default"]);

/**
 * Names by which clients of the code interpreter ask for its template. Every image with Python can run it, so they mean
 * the default image unless the organization has a template of that name.
 */
export const defaultInterpreters: ReadonlySet<string> = new Set(["code-interpreter-v1", "code-interpreter"]);

// Only the newest snapshots are found by name. Older ones are found by id.
const maxNamed = 1000;

export interface StartFromTemplate {
  readonly organizationId: string;
  /** An image of this server, a template, a named image, or the id or name of a snapshot. */
  readonly template: string;
  readonly fork: Fork;
}

/**
 * Creates a sandbox from the image, template or snapshot that a name denotes. @throws `not_found` for an unknown name
 */
export async function startFromTemplate(
  context: E2bContext,
  { organizationId, template, fork }: StartFromTemplate,
  signal: AbortSignal,
): Promise<Sandbox> {
  const { sandboxes, images } = context;
  const name = templateNameFrom(template);
  const image = defaultNames.has(name) ? "default" : name;
  if (sandboxes.worker.description.images.includes(image)) {
    const sandbox = { networkEnabled: true, ...fork, image };
    return (await createSandbox(sandboxes, { organizationId, sandbox }, () => {}, signal)).sandbox;
  }
  const ready = await findReadyTemplate(context.templates, organizationId, name);
  if (ready !== undefined) {
    const create = forkOf(ready.checkpoint, { organizationId, fork });
    return (await createSandbox(sandboxes, create, () => {}, signal)).sandbox;
  }
  if (defaultInterpreters.has(name)) {
    const sandbox = { networkEnabled: true, ...fork, image: "default" };
    return (await createSandbox(sandboxes, { organizationId, sandbox }, () => {}, signal)).sandbox;
  }
  const snapshot = await findSnapshot(context, organizationId, name);
  if (snapshot !== undefined) {
    return (await forkCheckpoint(sandboxes, { organizationId, checkpointId: snapshot.id, fork }, signal)).sandbox;
  }
  if ((await orMissing(images.images.get(organizationId, name))) === undefined) {
    throw new SandboxError("not_found", `template '${template}' not found`, { resource: "image", id: template });
  }
  return (await createFromImage(images, { organizationId, image: { name }, fork }, () => {}, signal)).sandbox;
}

/** The newest snapshot with this name, or else the snapshot with this id. */
export async function findSnapshot(
  { sandboxes: { stores } }: E2bContext,
  organizationId: string,
  name: string,
): Promise<Checkpoint | undefined> {
  const snapshots = await stores.checkpoints.list(organizationId, maxNamed);
  const named = snapshots.find((checkpoint) => checkpoint.status !== "failed" && checkpoint.name === name);
  if (named !== undefined) return named;
  const found = await stores.checkpoints.find(name);
  if (found === undefined || found.hidden) return undefined;
  return found.organizationId === organizationId || found.isPublic ? found : undefined;
}
