import { describeError } from "@opensandbox/wire/errors.ts";
import { isBuilderGone } from "#lifecycle/builder.ts";
import { discardBuilds } from "./find-template.ts";
import { requireTags } from "./build-template.ts";
import type { TemplateContext } from "./template-context.ts";
import type { Template, TemplateBuild } from "./template.ts";

/** Removes a template with everything that its builds keep. Sandboxes from it are not affected. */
export async function deleteTemplate(context: TemplateContext, template: Template): Promise<void> {
  await discardBuilds(context, await context.templates.remove(template.id));
  await context.files.removeTemplate({ ...template, templateId: template.id });
}

/** Allows every organization to create sandboxes from a template by its id, or ends that. */
export async function publishTemplate(
  { templates, images: { sandboxes } }: TemplateContext,
  template: Template,
  isPublic: boolean,
): Promise<void> {
  await templates.setPublic(template.id, isPublic);
  for (const { checkpointId } of await templates.listBuilds(template.id)) {
    if (checkpointId !== undefined) await sandboxes.stores.checkpoints.setPublic(checkpointId, isPublic);
  }
}

/** Makes further tags name a build that is ready. */
export async function tagBuild(
  context: TemplateContext,
  { templateId, id }: TemplateBuild,
  tags: readonly string[],
): Promise<void> {
  requireTags(tags);
  const createdAt = new Date(context.images.sandboxes.clock.now());
  await discardBuilds(context, await context.templates.tag(templateId, { buildId: id, tags, createdAt }));
}

/** Removes tags, and with its last tag a build. */
export async function untagBuilds(
  context: TemplateContext,
  template: Template,
  tags: readonly string[],
): Promise<void> {
  requireTags(tags);
  await discardBuilds(context, await context.templates.untag(template.id, tags));
}

/** Marks builds that an exited server has left unfinished as failed. */
export async function reconcileTemplates({ templates, images: { sandboxes } }: TemplateContext): Promise<void> {
  const { clock, log } = sandboxes;
  try {
    for (const { id, status, workerId } of await templates.listUnfinished()) {
      // The client of a waiting build has yet to start it, which it can on any server.
      if (status !== "building" || !(await isBuilderGone(sandboxes, workerId))) continue;
      const error = "the server exited while the template was being built";
      await templates.fail(id, { error, failedStep: "base", log: [], finishedAt: new Date(clock.now()) });
    }
  } catch (error) {
    log(
      "error",
      "cannot reconcile the templates of an exited server: the next start tries again",
      describeError(error),
    );
  }
}
