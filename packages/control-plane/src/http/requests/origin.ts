import type { FastifyRequest } from "fastify";

/** The origin under which the client reached this server, perhaps through a proxy. */
export function originOf({ headers }: Pick<FastifyRequest, "headers">): string {
  const forwarded = headers["x-forwarded-proto"];
  const proto = (Array.isArray(forwarded) ? forwarded[0] : forwarded)?.split(",")[0]?.trim();
  return `${proto === "https" ? "https" : "http"}://${headers.host ?? "localhost"}`;
}
