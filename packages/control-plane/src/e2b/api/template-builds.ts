import { createHmac } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { templateNameFrom } from "@opensandbox/wire/e2b/snapshots.ts";
import * as wire from "@opensandbox/wire/e2b/templates.ts";
import { pathOf } from "@opensandbox/wire/route.ts";
import type { FastifyInstance } from "fastify";
import { originOf } from "#http/requests/origin.ts";
import { serve } from "#http/serve.ts";
import { registerTemplate, startTemplateBuild } from "#templates/build-template.ts";
import type { TemplateFile } from "#templates/template-files.ts";
import { splitTag, type TemplateDefinition, type TemplateStep } from "#templates/template.ts";
import { equalInConstantTime, type E2bContext } from "../e2b-context.ts";
import { addUserCommand } from "../guest-user.ts";

/** A client polls the log in parts of this many lines. */
const maxLogLines = 100;

/** How long a client may take to begin an upload. */
const uploadSeconds = 3600;

/** Images of E2B's registry that stand for this server's default image. */
const baseImage = /^(?:docker\.io\/)?e2bdev\/base(?::[\w.-]+)?$/;

/** Serves the calls that build templates, in the order in which a client makes them. */
export function serveTemplateBuilds(app: FastifyInstance, context: E2bContext): void {
  const { sandboxes, templates: templateContext } = context;
  const { templates, files, logs } = templateContext;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.requestBuild, async ({ organizationId, body }) => {
    const { name, tag } = splitTag(templateNameFrom(body.name));
    const tags = body.name.includes(":") ? [tag, ...(body.tags ?? [])] : (body.tags ?? []);
    const { template, build } = await registerTemplate(templateContext, {
      organizationId,
      name,
      tags,
      vcpus: body.cpuCount,
      memoryMib: body.memoryMB,
    });
    return {
      templateID: template.id,
      buildID: build.id,
      names: [template.name],
      tags: build.tags,
      aliases: [template.name],
      public: template.isPublic,
    };
  });

  serve(app, ending, wire.getFileLink, async ({ organizationId, parameter, request }) => {
    const { id } = await templates.get(organizationId, templateNameFrom(parameter("id")));
    const file = { organizationId, templateId: id, hash: parameter("hash") };
    const present = await files.has(file);
    const expires = `${Math.floor(sandboxes.clock.now() / 1000) + uploadSeconds}`;
    const query = new URLSearchParams({ expires, signature: signatureOf(context, file, expires) });
    const path = pathOf({ path: wire.uploadPath }, { organization: organizationId, id, hash: file.hash });
    return { present, url: `${originOf(request)}${path}?${query.toString()}` };
  });

  serve(app, ending, wire.startBuild, async ({ organizationId, parameter, body }) => {
    const template = await templates.get(organizationId, templateNameFrom(parameter("id")));
    const build = await templates.getBuild(template.id, parameter("build"));
    await startTemplateBuild(templateContext, { template, build }, definitionFrom(context, body));
  });

  serve(app, ending, wire.getBuildStatus, async ({ organizationId, parameter, query }) => {
    const template = await templates.get(organizationId, templateNameFrom(parameter("id")));
    const build = await templates.getBuild(template.id, parameter("build"));
    const lines = logs.find(build.id)?.lines ?? (await templates.logOf(build.id));
    const offset = query.logsOffset ?? 0;
    const { error = "", failedStep = "base" } = build;
    const status: wire.BuildStatusReply["status"] = build.status === "failed" ? "error" : build.status;
    return {
      templateID: template.id,
      buildID: build.id,
      status,
      logEntries: lines.slice(offset, offset + maxLogLines).map(({ timestamp, ...line }) => ({
        timestamp: new Date(timestamp).toISOString(),
        ...line,
      })),
      logs: [],
      ...(status === "error" ? { reason: { message: error, step: failedStep } } : {}),
    };
  });
}

/** Serves the uploads of files. Their URLs are signed, and clients send no key. */
export function serveTemplateUploads(app: FastifyInstance, context: E2bContext): void {
  const { sandboxes, templates } = context;
  app.route({
    ...{ method: "PUT", url: wire.uploadPath },
    handler: async (request, reply) => {
      const { organization = "", id = "", hash = "" } = request.params as Readonly<Record<string, string>>;
      const { expires = "", signature = "" } = request.query as Readonly<Record<string, string>>;
      const file = { organizationId: organization, templateId: id, hash };
      if (!equalInConstantTime(signature, signatureOf(context, file, expires))) {
        throw new SandboxError("permission_denied", "invalid signature");
      }
      if (Number(expires) * 1000 < sandboxes.clock.now()) {
        throw new SandboxError("permission_denied", "the upload's URL has expired: build again");
      }
      await templates.files.write(file, request.raw, sandboxes.shutdown.ending);
      return reply.status(200).send();
    },
  });
}

function signatureOf(
  { signingKey }: Pick<E2bContext, "signingKey">,
  { organizationId, templateId, hash }: TemplateFile,
  expires: string,
): string {
  const text = ["template files", organizationId, templateId, hash, expires].join("\n");
  return createHmac("sha256", Buffer.from(signingKey, "hex")).update(text).digest("hex");
}

function definitionFrom({ sandboxes }: E2bContext, body: wire.StartBuildBody): TemplateDefinition {
  if (body.fromImageRegistry !== undefined && body.fromImageRegistry !== null) {
    throw new SandboxError(
      "not_supported",
      "credentials of a registry in a build are not implemented: the server's operator names them in OPENSANDBOX_REGISTRY_CREDENTIALS",
    );
  }
  // A fake machine has no users of its own.
  const isFake = sandboxes.worker.description.hypervisor === "fake";
  const preparation: TemplateStep[] = [
    { type: "command", command: addUserCommand, user: "root" },
    { type: "user", name: "user" },
    { type: "workdir", args: { path: "/home/user" } },
  ];
  const orNone = (text: string | undefined) => (text === undefined || text === "" ? undefined : text);
  return {
    base: baseFrom(body),
    preparation: isFake ? [] : preparation,
    steps: (body.steps ?? []).map(stepFrom),
    startCommand: orNone(body.startCmd),
    readyCommand: orNone(body.readyCmd),
  };
}

function baseFrom({ fromImage, fromTemplate }: wire.StartBuildBody): TemplateDefinition["base"] {
  if (fromTemplate !== undefined && fromTemplate !== "") {
    const name = templateNameFrom(fromTemplate);
    return name === "base" ? { kind: "image", image: "default" } : { kind: "template", template: name };
  }
  if (fromImage === undefined || fromImage === "") {
    throw new SandboxError("invalid_argument", "a build needs fromImage or fromTemplate");
  }
  return { kind: "image", image: fromImage === "base" || baseImage.test(fromImage) ? "default" : fromImage };
}

function stepFrom({ type, args = [], filesHash }: wire.BuildStep): TemplateStep {
  const [first = "", second = "", third = "", fourth = ""] = args;
  const orNone = (text: string) => (text === "" ? undefined : text);
  switch (type.toUpperCase()) {
    case "RUN":
      return { type: "command", command: first, user: orNone(second) };
    case "ENV": {
      const pairs = Array.from({ length: Math.ceil(args.length / 2) }, (_, at) => [
        args[2 * at],
        args[2 * at + 1] ?? "",
      ]);
      return { type: "env", args: { vars: Object.fromEntries(pairs) as Record<string, string> } };
    }
    case "WORKDIR":
      return { type: "workdir", args: { path: first } };
    case "USER":
      return { type: "user", name: first };
    case "COPY":
      if (filesHash === undefined) throw new SandboxError("invalid_argument", "a COPY step needs filesHash");
      return {
        ...{ type: "copy", filesHash, source: first, destination: second },
        ...{ user: orNone(third), mode: orNone(fourth) },
      };
    default:
      throw new SandboxError("invalid_argument", `unknown step '${type}': RUN, ENV, WORKDIR, USER and COPY exist`);
  }
}
