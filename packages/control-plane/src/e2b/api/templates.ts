import { SandboxError } from "@opensandbox/wire/errors.ts";
import { templateNameFrom } from "@opensandbox/wire/e2b/snapshots.ts";
import * as wire from "@opensandbox/wire/e2b/templates.ts";
import type { FastifyInstance } from "fastify";
import { serve } from "#http/serve.ts";
import { type E2bContext, orMissing } from "../e2b-context.ts";
import { findSnapshot } from "./start-from-template.ts";

/** Serves the look-ups of templates, and the organization as a team. */
export function serveTemplates(app: FastifyInstance, context: E2bContext): void {
  const { sandboxes, images } = context;
  const { ending } = sandboxes.shutdown;
  const { defaults } = sandboxes.settings;

  const namesOfServer = (): string[] =>
    sandboxes.worker.description.images.map((name) => (name === "default" ? "base" : name));

  serve(app, ending, wire.findAlias, async ({ organizationId, parameter }) => {
    const name = templateNameFrom(parameter("alias"));
    if (namesOfServer().includes(name) || name === "default") return { templateID: name, public: true };
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
      return [
        ...namesOfServer().map((name) => wire.templateReplyOf(name, { ...defaults, isPublic: true })),
        ...named.map((name) => wire.templateReplyOf(name, { ...defaults, isPublic: false })),
      ];
    });
  }

  serve(app, ending, wire.listTeams, async ({ organizationId }) => {
    await Promise.resolve();
    return [{ teamID: organizationId, name: organizationId, apiKey: "", isDefault: true }];
  });
}
