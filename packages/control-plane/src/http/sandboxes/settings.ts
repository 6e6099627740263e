import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import { allowedHostsReplyOf, getAllowedHosts } from "@opensandbox/wire/public/sandboxes/allowed-hosts.ts";
import * as wire from "@opensandbox/wire/public/sandboxes/scaling.ts";
import type { FastifyInstance, FastifyReply } from "fastify";
import { withoutAutoscale } from "#sandboxes/sandbox.ts";
import { scaleSandbox } from "#sandboxes/scale-sandbox.ts";
import type { ApiContext } from "../api-context.ts";
import { answered, serve, type Call } from "../serve.ts";

/** The size of a sandbox, its autoscale range and scaling lock, and the hosts of its secrets. */
export function serveSettings(app: FastifyInstance, { sandboxes }: ApiContext): void {
  const { stores } = sandboxes;
  const { ending } = sandboxes.shutdown;
  const find = ({ organizationId, parameter }: Pick<Call<unknown, unknown>, "organizationId" | "parameter">) =>
    stores.sandboxes.get(organizationId, parseSandboxId(parameter("id")));

  const scale = async ({ organizationId, parameter, signal, reply, body }: Call<wire.Size, unknown>) => {
    const request = { organizationId, id: parseSandboxId(parameter("id")), size: wire.sizeFrom(body) };
    const answer = wire.scaleAnswer(await scaleSandbox(sandboxes, request, signal));
    if (answer.status === 200) return answer.body;
    reply.status(answer.status).send(answer.body);
    return answered;
  };

  serve(app, ending, wire.scaleSandbox, scale);

  serve(app, ending, wire.setLimits, scale);

  serve(app, ending, wire.setAutoscale, async (call) => {
    const sandbox = await find(call);
    if (sandbox.scalingLocked && call.body.enabled) return refuseLocked(call.reply);
    return wire.autoscaleReplyOf(
      await stores.sandboxes.update(sandbox.id, { autoscale: wire.autoscaleFrom(call.body) }),
    );
  });

  serve(app, ending, wire.getAutoscale, async (call) => wire.autoscaleReplyOf(await find(call)));

  serve(app, ending, wire.setScalingLock, async (call) => {
    const sandbox = await find(call);
    const { locked } = call.body;
    await stores.sandboxes.update(sandbox.id, { scalingLocked: locked, ...(locked ? withoutAutoscale(sandbox) : {}) });
    return { sandboxID: sandbox.id, locked };
  });

  serve(app, ending, getAllowedHosts, async (call) => {
    const { id, organizationId, secretStores } = await find(call);
    return allowedHostsReplyOf(id, await sandboxes.secrets.stores({ organizationId, secretStores }));
  });

  serve(app, ending, wire.getScalingLock, async (call) => {
    const { id, scalingLocked } = await find(call);
    return { sandboxID: id, locked: scalingLocked };
  });
}

function refuseLocked(reply: FastifyReply): typeof answered {
  reply.status(403).send(wire.scalingLocked);
  return answered;
}
