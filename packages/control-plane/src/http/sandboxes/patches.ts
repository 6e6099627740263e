import { SandboxError } from "@opensandbox/wire/errors.ts";
import { patchReplyOf, type PatchRoutes } from "@opensandbox/wire/public/sandboxes/patches.ts";
import type { FastifyInstance } from "fastify";
import type { ApiContext } from "../api-context.ts";
import { serve, type Call } from "../serve.ts";

/** Serves the patches of a resource with a checkpoint, which `checkpointIdOf` finds for a call. */
export function servePatches(
  app: FastifyInstance,
  { sandboxes }: ApiContext,
  routes: PatchRoutes,
  checkpointIdOf: (call: Pick<Call<unknown, unknown>, "organizationId" | "parameter">) => Promise<string>,
): void {
  const { stores, clock } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, routes.create, async (call) => {
    const { script, description = "" } = call.body;
    const created = { script, description, createdAt: new Date(clock.now()) };
    return { patch: patchReplyOf(await stores.patches.add(await checkpointIdOf(call), created)) };
  });

  serve(app, ending, routes.list, async (call) => {
    return (await stores.patches.list(await checkpointIdOf(call))).map(patchReplyOf);
  });

  serve(app, ending, routes.remove, async (call) => {
    const id = call.parameter("patchId");
    if (await stores.patches.remove(await checkpointIdOf(call), id)) return;
    throw new SandboxError("not_found", "patch not found", { resource: "patch", id });
  });
}
