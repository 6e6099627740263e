import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/sandboxes/network.ts";
import type { FastifyInstance } from "fastify";
import { networkLog, setNetworkPolicy } from "#sandboxes/network-policy.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";

export function serveNetwork(app: FastifyInstance, { sandboxes, place }: ApiContext): void {
  const { stores } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.getNetwork, async ({ organizationId, parameter }) => {
    const sandbox = await stores.sandboxes.get(organizationId, parseSandboxId(parameter("id")));
    return wire.networkReplyOf(sandbox, place.networkNotEnforced);
  });

  serve(app, ending, wire.setNetwork, async ({ organizationId, parameter, body }) => {
    const id = parseSandboxId(parameter("id"));
    const change = (present: Parameters<typeof wire.networkPolicyFrom>[1]) => wire.networkPolicyFrom(body, present);
    const sandbox = await setNetworkPolicy(sandboxes, { organizationId, id, change });
    return wire.networkReplyOf(sandbox, place.networkNotEnforced);
  });

  serve(app, ending, wire.getNetworkLog, async ({ organizationId, parameter }) => {
    return [...(await networkLog(sandboxes, organizationId, parseSandboxId(parameter("id"))))];
  });
}
