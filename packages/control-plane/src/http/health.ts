import { alive, documentation, health, openApi, ready } from "@opensandbox/wire/public/health.ts";
import { openApiDocument } from "@opensandbox/wire/public/openapi.ts";
import { publicRoutes } from "@opensandbox/wire/public/routes.ts";
import type { FastifyInstance } from "fastify";
import type { ApiContext } from "./api-context.ts";
import { documentationPage } from "./documentation-page.ts";
import { answered, serve } from "./serve.ts";

export function serveHealth(app: FastifyInstance, api: ApiContext): void {
  const { ending } = api.sandboxes;
  const document = openApiDocument();

  serve(app, ending, health, () => Promise.resolve({ status: "ok" }));
  serve(app, ending, alive, () => Promise.resolve({ status: "alive" }));
  serve(app, ending, ready, ({ reply }) => {
    const state = ending.aborted ? { ready: false, reason: "the server is ending" } : api.ready();
    if (state.ready) return Promise.resolve({ status: "ready" });
    reply.status(503);
    return Promise.resolve({ status: "not ready", ...(state.reason === undefined ? {} : { reason: state.reason }) });
  });
  serve(app, ending, openApi, () => Promise.resolve(document));
  const page = documentationPage(publicRoutes, document);
  serve(app, ending, documentation, async ({ reply }) => {
    await reply.type("text/html; charset=utf-8").send(page);
    return answered;
  });
}
