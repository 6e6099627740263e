import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/sandboxes/lifecycle.ts";
import { sandboxReplyOf } from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import type { FastifyInstance } from "fastify";
import { hibernateSandbox } from "#sandboxes/hibernate-sandbox.ts";
import { migrateSandbox } from "#lifecycle/migrate-sandbox.ts";
import { powerCycleSandbox } from "#sandboxes/power-cycle-sandbox.ts";
import { rebootSandbox } from "#sandboxes/reboot-sandbox.ts";
import { wakeSandbox } from "#sandboxes/wake-sandbox.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";
import { serverTiming } from "../server-timing.ts";

export function serveLifecycle(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes, place } = api;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.hibernateSandbox, async ({ organizationId, parameter }) => {
    return wire.hibernatedReplyOf(await hibernateSandbox(sandboxes, organizationId, parseSandboxId(parameter("id"))));
  });

  serve(app, ending, wire.wakeSandbox, async ({ organizationId, parameter, body, reply }) => {
    const id = parseSandboxId(parameter("id"));
    const timeout = body.timeout === undefined ? {} : { idleTimeoutSeconds: body.timeout };
    const { sandbox, spans } = await wakeSandbox(sandboxes, { organizationId, id, ...timeout });
    reply.header("server-timing", serverTiming(spans));
    return sandboxReplyOf(sandbox, place);
  });

  serve(app, ending, wire.migrateSandbox, async ({ organizationId, parameter, body }) => {
    const id = parseSandboxId(parameter("id"));
    const migrated = await migrateSandbox(sandboxes, { organizationId, id, workerId: body.targetWorker });
    const { sandbox, sourceWorkerId, elapsedMs } = migrated;
    return { sandboxID: id, sourceWorker: sourceWorkerId, targetWorker: sandbox.workerId, elapsedMs };
  });

  serve(app, ending, wire.rebootSandbox, async ({ organizationId, parameter }) => {
    await rebootSandbox(sandboxes, organizationId, parseSandboxId(parameter("id")));
  });

  serve(app, ending, wire.powerCycleSandbox, async ({ organizationId, parameter }) => {
    await powerCycleSandbox(sandboxes, organizationId, parseSandboxId(parameter("id")));
  });
}
