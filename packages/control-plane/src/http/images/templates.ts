import { SandboxError } from "@opensandbox/wire/errors.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import * as wire from "@opensandbox/wire/public/templates.ts";
import type { FastifyInstance } from "fastify";
import type { BuildLog } from "#images/image.ts";
import { registerTemplate, startTemplateBuild } from "#templates/build-template.ts";
import { definitionOfDockerfile } from "#templates/dockerfile.ts";
import { deleteTemplate, publishTemplate } from "#templates/manage-templates.ts";
import type { Template, TemplateBuild, TemplateDefinition, TemplateStep } from "#templates/template.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";
import { answerWithEvents, wantsEvents } from "./build-events.ts";

/** One answer has at most this many lines of a log. */
const maxLogLines = 1000;

/** Serves templates: machines that are built under a name, with a program that runs in them. */
export function serveTemplates(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes, templates: context } = api;
  const { templates, logs } = context;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.createTemplate, async (call) => {
    const { organizationId, body, query, reply, signal } = call;
    const definition = definitionFrom(body);
    const { template, build } = await registerTemplate(context, {
      ...{ organizationId, name: body.name, tags: body.tags ?? [] },
      ...{ vcpus: body.cpuCount, memoryMib: body.memoryMB },
    });
    const { ended } = await startTemplateBuild(context, { template, build }, definition);
    if (body.public !== undefined) await publishTemplate(context, template, body.public);
    if (query.async === "1") {
      reply.status(202);
      return await shown(api, template);
    }
    const waited = async () => {
      const { status, error, failedStep } = await orAborted(ended, signal);
      if (status === "ready") return await shown(api, template);
      throw new SandboxError("invalid_argument", failureText(failedStep, error));
    };
    if (!wantsEvents(call)) return await waited();
    return await answerWithEvents(api, call, async (onLog) => {
      using _ = logs.find(build.id)?.listen(({ step, message }) => onLog(lineOf(step, message)));
      return await waited();
    });
  });

  serve(app, ending, wire.listTemplates, async ({ organizationId }) => {
    const found = await templates.list(organizationId);
    return await Promise.all(found.map((template) => shown(api, template)));
  });

  serve(app, ending, wire.getTemplate, async ({ organizationId, parameter }) => {
    return await shown(api, await templates.get(organizationId, parameter("name")));
  });

  serve(app, ending, wire.deleteTemplate, async ({ organizationId, parameter }) => {
    await deleteTemplate(context, await templates.get(organizationId, parameter("name")));
  });

  serve(app, ending, wire.getTemplateBuild, async ({ organizationId, parameter, query }) => {
    const template = await templates.get(organizationId, parameter("name"));
    const build = await templates.getBuild(template.id, parameter("buildId"));
    const lines = logs.find(build.id)?.lines ?? (await templates.logOf(build.id));
    const offset = query.offset ?? 0;
    return {
      ...wire.templateBuildReplyOf(await withTags(api, build)),
      log: lines.slice(offset, offset + maxLogLines).map(({ timestamp, ...line }) => ({
        timestamp: new Date(timestamp).toISOString(),
        ...line,
      })),
    };
  });

  for (const { route, isPublic } of wire.templatePublications) {
    serve(app, ending, route, async ({ organizationId, parameter }) => {
      const template = await templates.get(organizationId, parameter("name"));
      await publishTemplate(context, template, isPublic);
      return await shown(api, { ...template, isPublic });
    });
  }
}

async function shown({ templates: { templates } }: ApiContext, template: Template) {
  const [builds, tags] = await Promise.all([templates.listBuilds(template.id), templates.listTags(template.id)]);
  const present = (await templates.find(template.organizationId, template.id)) ?? template;
  return wire.templateReplyOf(
    present,
    builds.map((build) => tagged(build, tags)),
  );
}

async function withTags({ templates: { templates } }: ApiContext, build: TemplateBuild): Promise<TemplateBuild> {
  return tagged(build, await templates.listTags(build.templateId));
}

/** A ready build with the tags that name it now. */
function tagged(
  build: TemplateBuild,
  tags: readonly { readonly tag: string; readonly buildId: string }[],
): TemplateBuild {
  if (build.status !== "ready") return build;
  return { ...build, tags: tags.filter(({ buildId }) => buildId === build.id).map(({ tag }) => tag) };
}

function lineOf(step: string, message: string): BuildLog {
  return { step: /^\d+$/.test(step) ? Number(step) : 0, type: "progress", message };
}

function failureText(failedStep = "base", error = ""): string {
  if (failedStep === "base") return `the template's base failed: ${error}`;
  return failedStep === "finalize" ? error : `step ${failedStep} failed: ${error}`;
}

function definitionFrom(body: wire.CreateTemplateBody): TemplateDefinition {
  const bases = [body.image, body.template, body.dockerfile].filter((base) => base !== undefined);
  if (bases.length > 1) {
    throw new SandboxError("invalid_argument", "give one of image, template and dockerfile: each is a base");
  }
  const file = body.dockerfile === undefined ? undefined : definitionOfDockerfile(body.dockerfile);
  const base = file?.base ?? { kind: "image", image: body.image ?? "" };
  return {
    base: body.template === undefined ? withImageName(base) : { kind: "template", template: body.template },
    preparation: [],
    steps: [...(file?.steps ?? []), ...(body.steps ?? []).map(stepFrom)],
    startCommand: body.startCommand ?? file?.startCommand,
    readyCommand: body.readyCommand,
  };
}

function stepFrom(step: wire.TemplateStep): TemplateStep {
  return step.type === "user" ? { type: "user", name: step.args.name } : step;
}

/** As for a create, `""` and `base` name the default image. */
function withImageName(base: TemplateDefinition["base"]): TemplateDefinition["base"] {
  return base.kind === "image" && (base.image === "" || base.image === "base") ? { ...base, image: "default" } : base;
}
