import { alive, health, ready } from "@opensandbox/wire/public/health.ts";
import type { Tracer } from "@opensandbox/wire/tracing.ts";
import type { FastifyInstance } from "fastify";

/** Load balancers ask these all the time. */
const untraced: ReadonlySet<string | undefined> = new Set([health.path, alive.path, ready.path]);

/** Handles each request of the API in a span of its own, below the span of a client that sends `traceparent`. */
export function traceRequests(app: FastifyInstance, tracer: Tracer): void {
  app.addHook("onRequest", (request, reply, done) => {
    const { method, headers, params } = request;
    const route = request.routeOptions.url;
    if (untraced.has(route)) {
      done();
      return;
    }
    const { traceparent } = headers;
    const { id } = params as { readonly id?: string };
    const span = tracer.start({
      kind: "server",
      name: route === undefined ? method : `${method} ${route}`,
      attributes: {
        "http.request.method": method,
        ...(route === undefined ? {} : { "http.route": route }),
        ...(id !== undefined && route?.includes("/sandboxes/:id") === true ? { "opensandbox.sandbox": id } : {}),
        "opensandbox.request": request.id,
      },
      traceparent: typeof traceparent === "string" ? traceparent : undefined,
    });
    // Also emitted when the client leaves before the answer.
    reply.raw.once("close", () => {
      const { statusCode } = reply.raw;
      const error = statusCode >= 500 ? { error: `status ${statusCode}` } : {};
      span.end({ attributes: { "http.response.status_code": statusCode }, ...error });
    });
    span.run(done);
  });
}
