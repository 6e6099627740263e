import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/sandboxes/checkpoints.ts";
import { checkpointPatches } from "@opensandbox/wire/public/sandboxes/patches.ts";
import { sandboxReplyOf } from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import type { FastifyInstance } from "fastify";
import { createCheckpoint } from "#checkpoints/create-checkpoint.ts";
import { deleteCheckpoint } from "#checkpoints/delete-checkpoint.ts";
import { forkCheckpoint } from "#checkpoints/fork-checkpoint.ts";
import { getCheckpoint, listCheckpoints } from "#checkpoints/get-checkpoint.ts";
import { restoreCheckpoint } from "#checkpoints/restore-checkpoint.ts";
import type { ApiContext } from "../api-context.ts";
import { secretStoresOf } from "#http/secrets/stores-of-sandboxes.ts";
import { createGuarded } from "./create-guarded.ts";
import { idempotencyKeyOf } from "#http/requests/idempotency-key.ts";
import { servePatches } from "./patches.ts";
import { serve } from "../serve.ts";
import { serverTiming } from "../server-timing.ts";

// The limit of one list across all sandboxes of the organization.
const listLimit = 1000;

export function serveCheckpoints(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes, place } = api;
  const { stores } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.createCheckpoint, async ({ organizationId, parameter, body }) => {
    const id = parseSandboxId(parameter("id"));
    const wanted = wire.newCheckpointFrom(body);
    return wire.checkpointReplyOf(await createCheckpoint(sandboxes, { organizationId, id, wanted }));
  });

  serve(app, ending, wire.listCheckpoints, async ({ organizationId, parameter }) => {
    const found = await listCheckpoints(sandboxes, organizationId, parseSandboxId(parameter("id")));
    return found.map(wire.checkpointReplyOf);
  });

  serve(app, ending, wire.listAllCheckpoints, async ({ organizationId }) => {
    return (await stores.checkpoints.list(organizationId, listLimit)).map(wire.checkpointReplyOf);
  });

  serve(app, ending, wire.getCheckpoint, async ({ organizationId, parameter }) => {
    const id = parseSandboxId(parameter("id"));
    const asked = { organizationId, id, checkpointId: parameter("checkpointId") };
    return wire.checkpointReplyOf(await getCheckpoint(sandboxes, asked));
  });

  serve(app, ending, wire.deleteCheckpoint, async ({ organizationId, parameter }) => {
    const id = parseSandboxId(parameter("id"));
    await deleteCheckpoint(sandboxes, { organizationId, id, checkpointId: parameter("checkpointId") });
  });

  serve(app, ending, wire.restoreCheckpoint, async ({ organizationId, parameter }) => {
    const id = parseSandboxId(parameter("id"));
    const checkpointId = parameter("checkpointId");
    await restoreCheckpoint(sandboxes, { organizationId, id, checkpointId });
    return { sandboxId: id, checkpointId, status: "restoring" as const };
  });

  serve(app, ending, wire.forkCheckpoint, async (call) => {
    const { organizationId, parameter, body, request, reply, signal } = call;
    const secretStores = await secretStoresOf(api, call, body.secretStore);
    const asked = {
      organizationId,
      checkpointId: parameter("checkpointId"),
      idempotencyKey: idempotencyKeyOf(request),
    };
    const forked = await createGuarded(api, body.previewAuth, (own) =>
      forkCheckpoint(sandboxes, { ...asked, fork: { ...wire.forkFrom(body), ...own, secretStores } }, signal),
    );
    reply.header("server-timing", serverTiming(forked.spans));
    reply.status(forked.repeated ? 200 : 201);
    return { ...sandboxReplyOf(forked.sandbox, place), ...forked.previewAuthToken };
  });

  serve(app, ending, wire.publishCheckpoint, async ({ organizationId, parameter }) => {
    const { id } = await stores.checkpoints.get(organizationId, parameter("checkpointId"));
    return wire.checkpointReplyOf(await stores.checkpoints.setPublic(id, true));
  });

  serve(app, ending, wire.unpublishCheckpoint, async ({ organizationId, parameter }) => {
    const { id } = await stores.checkpoints.get(organizationId, parameter("checkpointId"));
    return wire.checkpointReplyOf(await stores.checkpoints.setPublic(id, false));
  });

  servePatches(app, api, checkpointPatches, async ({ organizationId, parameter }) => {
    return (await stores.checkpoints.get(organizationId, parameter("checkpointId"))).id;
  });
}
