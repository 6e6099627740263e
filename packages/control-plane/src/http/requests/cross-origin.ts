import type { FastifyInstance } from "fastify";

/** Allows every origin: the API key protects a sandbox, and no browser adds it on its own. */
export function allowAllOrigins(app: FastifyInstance): void {
  app.addHook("onRequest", (_request, reply, done) => {
    // On the raw response, so that replies which bypass Fastify carry them too.
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
