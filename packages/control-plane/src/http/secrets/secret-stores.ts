import * as wire from "@opensandbox/wire/public/secret-stores.ts";
import type { FastifyInstance } from "fastify";
import { refreshSecrets } from "#secrets/refresh-secrets.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";

export function serveSecretStores(app: FastifyInstance, { sandboxes, secretRows: rows }: ApiContext): void {
  const { clock } = sandboxes;
  const { ending } = sandboxes.shutdown;
  const now = (): Date => new Date(clock.now());

  serve(app, ending, wire.createSecretStore, async ({ organizationId, body }) => {
    return wire.secretStoreReplyOf(await rows.addStore(organizationId, wire.newSecretStoreFrom(body), now()));
  });

  serve(app, ending, wire.listSecretStores, async ({ organizationId }) => {
    return (await rows.listStores(organizationId)).map(wire.secretStoreReplyOf);
  });

  serve(app, ending, wire.getSecretStore, async ({ organizationId, parameter }) => {
    const id = wire.parseStoreId(parameter("storeId"));
    return wire.secretStoreReplyOf(await rows.getStore(organizationId, id));
  });

  serve(app, ending, wire.updateSecretStore, async ({ organizationId, parameter, body }) => {
    const id = wire.parseStoreId(parameter("storeId"));
    const changes = wire.secretStoreChangesFrom(body);
    const store = await rows.updateStore(organizationId, id, changes, now());
    if (changes.hosts !== undefined) await refreshSecrets(sandboxes, organizationId, id);
    return wire.secretStoreReplyOf(store);
  });

  serve(app, ending, wire.deleteSecretStore, async ({ organizationId, parameter }) => {
    const id = wire.parseStoreId(parameter("storeId"));
    await rows.removeStore(organizationId, id);
    await refreshSecrets(sandboxes, organizationId, id);
  });

  serve(app, ending, wire.listSecrets, async ({ organizationId, parameter }) => {
    const id = wire.parseStoreId(parameter("storeId"));
    return (await rows.listSecrets(organizationId, id)).map(wire.secretReplyOf);
  });

  serve(app, ending, wire.setSecret, async ({ organizationId, parameter, body }) => {
    const id = wire.parseStoreId(parameter("storeId"));
    const secret = wire.secretFrom(parameter("secretName"), body);
    await rows.setSecret(organizationId, id, secret, now());
    const { refreshed, errors } = await refreshSecrets(sandboxes, organizationId, id);
    const refreshErrors = errors.length === 0 ? {} : { refreshErrors: [...errors] };
    return { name: secret.name, status: "set" as const, ...(refreshed === 0 ? {} : { refreshed }), ...refreshErrors };
  });

  serve(app, ending, wire.deleteSecret, async ({ organizationId, parameter }) => {
    const id = wire.parseStoreId(parameter("storeId"));
    await rows.removeSecret(organizationId, id, parameter("secretName"));
    await refreshSecrets(sandboxes, organizationId, id);
  });
}
