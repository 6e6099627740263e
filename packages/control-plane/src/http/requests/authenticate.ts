import type { FastifyInstance, FastifyRequest } from "fastify";
import type { Authenticate } from "#organizations/api-keys.ts";

const organizations = new WeakMap<FastifyRequest, string>();

/** Every route below this instance needs a key. */
export function requireKey(app: FastifyInstance, authenticate: Authenticate): void {
  app.addHook("onRequest", async (request) => {
    const { organizationId } = await authenticate(keyOf(request));
    organizations.set(request, organizationId);
  });
}

/** Whose key the request came with; empty on routes that need none. */
export function organizationOf(request: FastifyRequest): string {
  return organizations.get(request) ?? "";
}

/** `X-API-Key`, `Authorization: Bearer`, or `?api_key=` where headers cannot be set. */
function keyOf(request: FastifyRequest): string | undefined {
  const header = request.headers["x-api-key"];
  if (typeof header === "string" && header !== "") return header;
  const bearer = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? "");
  if (bearer !== null) return bearer[1];
  const { api_key: inQuery } = request.query as Record<string, unknown>;
  return typeof inQuery === "string" ? inQuery : undefined;
}
