import * as wire from "@opensandbox/wire/public/ssh.ts";
import type { FastifyInstance } from "fastify";
import { parsePublicKey } from "#ssh/public-key.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";

/** The keys of the SSH gateway, and where it is. */
export function serveSshKeys(app: FastifyInstance, { sandboxes, ssh }: ApiContext): void {
  const { clock } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.getSshGateway, async () => {
    const { gateway } = ssh;
    if (gateway === undefined) return { enabled: false };
    const { port, hostKey } = gateway;
    return { enabled: true, port, hostKey: hostKey.publicKey, fingerprint: hostKey.fingerprint };
  });

  serve(app, ending, wire.addSshKey, async ({ organizationId, body }) => {
    const key = parsePublicKey(body.publicKey);
    const name = body.name ?? (key.comment === "" ? key.fingerprint : key.comment);
    return wire.sshKeyReplyOf(await ssh.keys.add(organizationId, key, name, new Date(clock.now())));
  });

  serve(app, ending, wire.listSshKeys, async ({ organizationId }) => {
    return (await ssh.keys.list(organizationId)).map(wire.sshKeyReplyOf);
  });

  serve(app, ending, wire.removeSshKey, async ({ organizationId, parameter }) => {
    await ssh.keys.remove(organizationId, wire.parseSshKeyId(parameter("sshKeyId")));
  });
}
