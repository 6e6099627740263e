import { SandboxError } from "@opensandbox/wire/errors.ts";
import * as wire from "@opensandbox/wire/public/organizations/api-keys.ts";
import { grants } from "@opensandbox/wire/public/scopes.ts";
import type { FastifyInstance } from "fastify";
import type { ApiContext } from "../api-context.ts";
import { callerOf } from "../requests/authenticate.ts";
import { serve } from "../serve.ts";

const dayMs = 86_400_000;

/** The API keys of an organization. */
export function serveApiKeys(app: FastifyInstance, { sandboxes, keys }: ApiContext): void {
  const { clock } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.listApiKeys, async ({ organizationId, request }) => {
    const current = callerOf(request)?.keyId;
    return (await keys.store.list(organizationId)).map((key) => wire.apiKeyReplyOf(key, current));
  });

  serve(app, ending, wire.createApiKey, async ({ organizationId, body, request, reply }) => {
    const { keyId, scopes: own = [], isToken = false, isSession = false } = callerOf(request) ?? {};
    if (isToken && !isSession) {
      throw new SandboxError("permission_denied", "a token cannot create keys: use an API key");
    }
    if (keys.areStatic) {
      const message = "this server accepts the key of OPENSANDBOX_API_KEY alone: without that variable it has others";
      throw new SandboxError("not_supported", message);
    }
    const scopes = wire.wantedScopes(body, own);
    const missing = scopes.find((scope) => !grants(own, scope));
    if (missing !== undefined) {
      throw new SandboxError("permission_denied", `the API key lacks the scope ${missing}, so it cannot give it`);
    }
    const { name, expiresInDays } = body;
    const expiresAt = expiresInDays === undefined ? undefined : new Date(clock.now() + expiresInDays * dayMs);
    const { key, apiKey } = await keys.store.create({ organizationId, name, scopes, expiresAt }, new Date(clock.now()));
    reply.header("cache-control", "no-store");
    return { ...wire.apiKeyReplyOf(apiKey, keyId), key };
  });

  serve(app, ending, wire.revokeApiKey, async ({ organizationId, parameter, request }) => {
    const revoked = await keys.store.revokeOf(organizationId, parameter("keyId"), new Date(clock.now()));
    return wire.apiKeyReplyOf(revoked, callerOf(request)?.keyId);
  });
}
