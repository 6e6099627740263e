import { alive, health, openApi, ready } from "@opensandbox/wire/public/health.ts";
import { openApiDocument } from "@opensandbox/wire/public/openapi.ts";
import type { FastifyInstance } from "fastify";
import type { ApiContext } from "./api-context.ts";
import { serveDocumentation } from "./documentation/serve-documentation.ts";
import { serve } from "./serve.ts";

export function serveHealth(app: FastifyInstance, api: ApiContext): void {
  const { ending } = api.sandboxes.shutdown;
  const document = openApiDocument();

  serve(app, ending, health, () => Promise.resolve({ status: "ok" }));
  serve(app, ending, alive, () => Promise.resolve({ status: "alive" }));
  serve(app, ending, ready, ({ reply }) => {
    const state = ending.aborted ? { ready: false, reason: "the server is shutting down" } : api.ready();
    if (state.ready) return Promise.resolve({ status: "ready" });
    reply.status(503);
    return Promise.resolve({ status: "not ready", ...(state.reason === undefined ? {} : { reason: state.reason }) });
  });
  serve(app, ending, openApi, () => Promise.resolve(document));
  serveDocumentation(app, api);
}
