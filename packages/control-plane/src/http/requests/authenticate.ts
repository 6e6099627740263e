import type { FastifyInstance, FastifyRequest } from "fastify";
import type { Authenticate } from "#organizations/api-keys.ts";

const organizations = new WeakMap<FastifyRequest, string>();

/** Requires an API key for every route of this instance. */
export function requireKey(app: FastifyInstance, authenticate: Authenticate): void {
  app.addHook("onRequest", async (request) => {
    const { organizationId } = await authenticate(keyOf(request));
    organizations.set(request, organizationId);
  });
}

/** The organization of the request's key; empty on routes without one. */
export function organizationOf(request: FastifyRequest): string {
  return organizations.get(request) ?? "";
}

/** From `X-API-Key`, `Authorization: Bearer`, or `?api_key=` for clients that cannot set headers. */
function keyOf(request: FastifyRequest): string | undefined {
  const header = request.headers["x-api-key"];
  if (typeof header === "string" && header !== "") return header;
  const bearer = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? "");
  if (bearer !== null) return bearer[1];
  const { api_key: inQuery } = request.query as Record<string, unknown>;
  return typeof inQuery === "string" ? inQuery : undefined;
}
