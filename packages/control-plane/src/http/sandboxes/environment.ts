import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/sandboxes/environment.ts";
import type { FastifyInstance } from "fastify";
import { changeEnvironment } from "#execs/change-environment.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";

export function serveEnvironment(app: FastifyInstance, { sandboxes }: ApiContext): void {
  serve(app, sandboxes.shutdown.ending, wire.changeEnvironment, async ({ organizationId, parameter, body }) => {
    const id = parseSandboxId(parameter("id"));
    const { envs } = await changeEnvironment(sandboxes, { organizationId, id, changes: body.envs });
    return { names: Object.keys(envs).toSorted() };
  });
}
