import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import type { TemplateContext } from "./template-context.ts";
import { templateNotFound } from "./template-store.ts";
import { splitTag, type Template, type TemplateBuild } from "./template.ts";

export interface ReadyTemplate {
  readonly template: Template;
  readonly build: TemplateBuild;
  readonly checkpoint: Checkpoint;
}

/**
 * The ready build that `name`, `name:tag`, `id` or `id:tag` names, of the organization or public.
 * @returns undefined when there is no such template
 * @throws `not_found` when the template has no ready build with the tag
 */
export async function findReadyTemplate(
  { templates, images: { sandboxes } }: Pick<TemplateContext, "templates" | "images">,
  organizationId: string,
  reference: string,
): Promise<ReadyTemplate | undefined> {
  const { name, tag } = splitTag(reference);
  const template = await templates.find(organizationId, name);
  if (template === undefined) return undefined;
  const build = await templates.tagged(template.id, tag);
  const checkpoint =
    build?.checkpointId === undefined ? undefined : await sandboxes.stores.checkpoints.find(build.checkpointId);
  if (build !== undefined && checkpoint !== undefined) return { template, build, checkpoint };
  const newest = (await templates.listBuilds(template.id))[0];
  const why = newest === undefined ? "" : `: its newest build is ${newest.status}`;
  throw new SandboxError("not_found", `template '${name}' has no ready build with the tag '${tag}'${why}`, {
    resource: "template",
    id: reference,
  });
}

/** Like {@link findReadyTemplate}. @throws `not_found` also when there is no such template */
export async function findReadyBuild(
  context: Pick<TemplateContext, "templates" | "images">,
  organizationId: string,
  reference: string,
): Promise<ReadyTemplate> {
  const found = await findReadyTemplate(context, organizationId, reference);
  if (found !== undefined) return found;
  throw templateNotFound(reference);
}

/** Removes the checkpoints of builds whose rows are gone. */
export async function discardBuilds(
  { images: { sandboxes } }: Pick<TemplateContext, "images">,
  builds: readonly TemplateBuild[],
): Promise<void> {
  for (const { checkpointId } of builds) {
    const checkpoint = checkpointId === undefined ? undefined : await sandboxes.stores.checkpoints.find(checkpointId);
    if (checkpoint !== undefined) await sandboxes.stores.checkpoints.remove(checkpoint);
  }
  if (builds.length > 0) await sandboxes.snapshots.removeUnwanted();
}
