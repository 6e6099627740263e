import { SandboxError } from "@opensandbox/wire/errors.ts";
import { createToken, defaultTokenSeconds } from "@opensandbox/wire/public/auth.ts";
import { parseScopes } from "@opensandbox/wire/public/scopes.ts";
import type { FastifyInstance } from "fastify";
import type { ApiContext } from "../api-context.ts";
import { callerOf } from "../requests/authenticate.ts";
import { serve } from "../serve.ts";

/** Serves short-lived tokens. */
export function serveTokens(app: FastifyInstance, { sandboxes, tokens }: ApiContext): void {
  serve(app, sandboxes.shutdown.ending, createToken, async ({ body, request }) => {
    const caller = callerOf(request);
    if (caller === undefined) throw new SandboxError("unauthenticated", "missing API key");
    const { scopes, expires_in: seconds = defaultTokenSeconds } = body;
    const wanted = { seconds, ...(scopes === undefined ? {} : { scopes: parseScopes(scopes) }) };
    return { token: tokens.create(caller, wanted), expires_in: seconds };
  });
}
