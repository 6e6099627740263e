import type { FastifyInstance } from "fastify";

/** Pages of every origin may call: what protects a sandbox is the key, which no browser sends by itself. */
export function allowAllOrigins(app: FastifyInstance): void {
  app.addHook("onRequest", (_request, reply, done) => {
    // On the raw response, so that replies which are written past Fastify have it too.
    reply.raw.setHeader("access-control-allow-origin", "*");
    reply.raw.setHeader("access-control-expose-headers", "X-Request-Id, Retry-After, Server-Timing");
    done();
  });
  app.options("*", (request, reply) =>
    reply
      .status(204)
      .header("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE")
      .header("access-control-allow-headers", request.headers["access-control-request-headers"] ?? "*")
      .header("access-control-max-age", "86400")
      .send(),
  );
}
