import { SandboxError } from "@opensandbox/wire/errors.ts";
import { templateNameFrom } from "@opensandbox/wire/e2b/snapshots.ts";
import * as wire from "@opensandbox/wire/e2b/templates.ts";
import type { FastifyInstance } from "fastify";
import { serve } from "#http/serve.ts";
import { findReadyBuild, findReadyTemplate } from "#templates/find-template.ts";
import { publishTemplate, tagBuild, untagBuilds } from "#templates/manage-templates.ts";
import { splitTag, type Template } from "#templates/template.ts";
import { type E2bContext, orMissing } from "../e2b-context.ts";
import { defaultInterpreters, findSnapshot } from "./start-from-template.ts";

/** Serves the look-ups of templates, their tags, and the organization as a team. */
export function serveTemplates(app: FastifyInstance, context: E2bContext): void {
  const { sandboxes, images, templates: templateContext } = context;
  const { templates } = templateContext;
  const { ending } = sandboxes.shutdown;
  const { defaults } = sandboxes.settings;

  const namesOfServer = (): string[] =>
    sandboxes.worker.description.images.map((name) => (name === "default" ? "base" : name));

  serve(app, ending, wire.findAlias, async ({ organizationId, parameter }) => {
    const name = templateNameFrom(parameter("alias"));
    if (namesOfServer().includes(name) || name === "default") return { templateID: name, public: true };
    const template = await templates.find(organizationId, splitTag(name).name);
    if (template !== undefined) return { templateID: template.id, public: template.isPublic };
    if (defaultInterpreters.has(name)) return { templateID: name, public: true };
    const snapshot = await findSnapshot(context, organizationId, name);
    if (snapshot !== undefined) return { templateID: snapshot.id, public: snapshot.isPublic };
    if ((await orMissing(images.images.get(organizationId, name))) !== undefined) {
      return { templateID: name, public: false };
    }
    throw new SandboxError("not_found", `template '${name}' not found`, { resource: "image", id: name });
  });

  for (const route of [wire.listTemplates, wire.listTemplatesSecond]) {
    serve(app, ending, route, async ({ organizationId }) => {
      const named = (await images.images.list(organizationId)).flatMap(({ name, status }) =>
        status === "ready" && name !== undefined ? [name] : [],
      );
      const built = await Promise.all(
        (await templates.list(organizationId)).map((template) => shown(context, template)),
      );
      return [
        ...namesOfServer().map((name) => wire.templateReplyOf({ id: name, name, ...defaults, isPublic: true })),
        ...named.map((name) => wire.templateReplyOf({ id: name, name, ...defaults, isPublic: false })),
        ...built.filter((reply) => reply !== undefined),
      ];
    });
  }

  serve(app, ending, wire.getTemplate, async ({ organizationId, parameter }) => {
    const template = await templates.get(organizationId, templateNameFrom(parameter("id")));
    const reply = await shown(context, template);
    if (reply !== undefined) return reply;
    throw new SandboxError("not_found", `template '${template.name}' has no ready build`, {
      resource: "template",
      id: template.id,
    });
  });

  for (const route of [wire.publishTemplate, wire.publishTemplateFirst]) {
    serve(app, ending, route, async ({ organizationId, parameter, body }) => {
      const template = await templates.get(organizationId, templateNameFrom(parameter("id")));
      if (body.public !== undefined) await publishTemplate(templateContext, template, body.public);
      return { names: [template.name] };
    });
  }

  serve(app, ending, wire.assignTags, async ({ organizationId, body }) => {
    // `:tag` and `name:` name no build.
    if (/^:|:$/.test(body.target)) {
      throw new SandboxError("invalid_argument", `target '${body.target}' must be a name, or a name and a tag`);
    }
    const { template, build } = await findReadyBuild(templateContext, organizationId, templateNameFrom(body.target));
    requireOwn(template, organizationId);
    await tagBuild(templateContext, build, body.tags);
    return { buildID: build.id, tags: body.tags };
  });

  serve(app, ending, wire.removeTags, async ({ organizationId, body }) => {
    const template = await templates.get(organizationId, templateNameFrom(body.name));
    await untagBuilds(templateContext, template, body.tags);
  });

  serve(app, ending, wire.listTags, async ({ organizationId, parameter }) => {
    const template = await templates.get(organizationId, templateNameFrom(parameter("id")));
    const tags = await templates.listTags(template.id);
    return tags.map(({ tag, buildId, createdAt }) => ({ tag, buildID: buildId, createdAt: createdAt.toISOString() }));
  });

  serve(app, ending, wire.listTeams, async ({ organizationId }) => {
    await Promise.resolve();
    return [{ teamID: organizationId, name: organizationId, apiKey: "", isDefault: true }];
  });
}

function requireOwn({ organizationId: owner, name }: Template, organizationId: string): void {
  if (owner === organizationId) return;
  throw new SandboxError("not_found", `template '${name}' not found`, { resource: "template", id: name });
}

/** Undefined for a template without a ready build, which clients have no word for. */
async function shown({ templates: context }: E2bContext, template: Template): Promise<wire.TemplateReply | undefined> {
  const [newest] = await context.templates.listTags(template.id);
  if (newest === undefined) return undefined;
  const ready = await findReadyTemplate(context, template.organizationId, `${template.id}:${newest.tag}`);
  if (ready === undefined) return undefined;
  const { vcpus, memoryMib, workspaceMib } = ready.checkpoint;
  const builds = await context.templates.listBuilds(template.id);
  return wire.templateReplyOf({
    ...{ ...template, vcpus, memoryMib, workspaceMib },
    buildId: ready.build.id,
    buildCount: builds.length,
  });
}
