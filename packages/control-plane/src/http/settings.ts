import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import { getAllowedHosts } from "@opensandbox/wire/public/allowed-hosts.ts";
import * as wire from "@opensandbox/wire/public/scaling.ts";
import type { FastifyInstance, FastifyReply } from "fastify";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { ApiContext } from "./api-context.ts";
import { answered, serve, type Call } from "./serve.ts";

/** What is wished for a sandbox and kept: its size, which is not changed yet, and what its secrets may reach. */
export function serveSettings(app: FastifyInstance, { sandboxes }: ApiContext): void {
  const { ending, store } = sandboxes;
  const find = ({ organizationId, parameter }: Pick<Call<unknown, unknown>, "organizationId" | "parameter">) =>
    store.get(organizationId, parseSandboxId(parameter("id")));

  for (const route of [wire.scaleSandbox, wire.setLimits]) {
    serve(app, ending, route, async (call) => {
      const sandbox = await find(call);
      if (sandbox.scalingLocked) return refuseLocked(call.reply);
      throw new SandboxError("not_supported", "resizing a sandbox is not there yet", undefined);
    });
  }

  serve(app, ending, wire.setAutoscale, async (call) => {
    const sandbox = await find(call);
    if (sandbox.scalingLocked && call.body.enabled) return refuseLocked(call.reply);
    return wire.autoscaleReplyOf(await store.update(sandbox.id, { autoscale: wire.autoscaleFrom(call.body) }));
  });

  serve(app, ending, wire.getAutoscale, async (call) => wire.autoscaleReplyOf(await find(call)));

  serve(app, ending, wire.setScalingLock, async (call) => {
    const sandbox = await find(call);
    const { locked } = call.body;
    await store.update(sandbox.id, { scalingLocked: locked, ...(locked ? withoutAutoscale(sandbox) : {}) });
    return { sandboxID: sandbox.id, locked };
  });

  serve(app, ending, getAllowedHosts, async (call) => {
    const { id } = await find(call);
    return { sandboxID: id, egressAllowlist: [], perSecretAllowedHosts: {} };
  });

  serve(app, ending, wire.getScalingLock, async (call) => {
    const { id, scalingLocked } = await find(call);
    return { sandboxID: id, locked: scalingLocked };
  });
}

function withoutAutoscale({ autoscale }: Sandbox): Pick<Sandbox, "autoscale"> {
  return { autoscale: autoscale && { ...autoscale, enabled: false } };
}

function refuseLocked(reply: FastifyReply): typeof answered {
  reply.status(403).send(wire.scalingLocked);
  return answered;
}
