import type { IncomingMessage, ServerResponse } from "node:http";
import { Server as TlsServer } from "node:https";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { publicRoutes } from "@opensandbox/wire/public/routes.ts";
import { defaultBodyLimit } from "@opensandbox/wire/route.ts";
import { fastify, type FastifyInstance } from "fastify";
import { ownKeyOf } from "#e2b/api/keys.ts";
import { serveE2bApi } from "#e2b/api/serve-api.ts";
import type { E2bContext } from "#e2b/e2b-context.ts";
import { e2bGateway } from "#e2b/gateway.ts";
import type { Log } from "../log.ts";
import { withinConnection } from "./connection-boundary.ts";
import { serveAgentSessions } from "./exec/agent-sessions.ts";
import { serveTokens } from "./auth/tokens.ts";
import { serveDashboard } from "./dashboard/serve-dashboard.ts";
import { serveAudit } from "./audit.ts";
import { auditCalls } from "./requests/audit-calls.ts";
import { requireKey } from "./requests/authenticate.ts";
import { serveCheckpoints } from "./sandboxes/checkpoints.ts";
import { allowAllOrigins } from "./requests/cross-origin.ts";
import { serveEvents } from "./events/events.ts";
import { serveExecSessions } from "./exec/exec-sessions.ts";
import { serveExecStream } from "./exec/exec-stream.ts";
import { serveExec } from "./exec/exec.ts";
import { serveFiles } from "./files/files.ts";
import { serveHealth } from "./health.ts";
import { serveHost } from "./host.ts";
import { serveWorkers } from "./workers.ts";
import { serveImages } from "./images/images.ts";
import { serveTemplates } from "./images/templates.ts";
import { serveLogs } from "./logs/logs.ts";
import { serveLifecycle } from "./sandboxes/lifecycle.ts";
import { serveNotYet } from "./not-yet.ts";
import { traceRequests } from "./requests/trace-requests.ts";
import { isTooLarge } from "./requests/read-json.ts";
import { makeServer } from "./make-server.ts";
import { serveEnvironment } from "./sandboxes/environment.ts";
import { serveNetwork } from "./sandboxes/network.ts";
import { previewGateway, type PreviewGateway } from "./previews/preview-gateway.ts";
import { servePorts } from "./ports/ports.ts";
import { servePreviews } from "./previews/previews.ts";
import { replyErrors, replyFailure } from "./reply-error.ts";
import { serveSandboxes } from "./sandboxes/sandboxes.ts";
import { serveSigned, serveSigning } from "./files/signed-files.ts";
import { serveSettings } from "./sandboxes/settings.ts";
import { serveTags } from "./sandboxes/tags.ts";
import type { Tracer } from "@opensandbox/wire/tracing.ts";
import type { RequestMetrics } from "./requests/request-metrics.ts";
import { closeAfterUnreadBody } from "./requests/unread-body.ts";
import { routeUpgrades } from "./sockets/web-socket.ts";
import { serveSecretStores } from "./secrets/secret-stores.ts";
import { serveApiKeys } from "./keys/api-keys.ts";
import { serveSshKeys } from "./ssh/ssh-keys.ts";
import { serveUsage } from "./usage/usage.ts";
import { serveWebhooks } from "./webhooks/webhooks.ts";

/** The HTTP server with all routes, before it listens. */
export async function buildServer(
  api: E2bContext,
  requests: RequestMetrics,
  tracer?: Tracer,
): Promise<FastifyInstance> {
  const { log } = api.sandboxes;
  const previews = e2bGateway(api, previewGateway({ ...api, isApiKey: (text) => api.isApiKey(ownKeyOf(text)) }));
  const app = fastify({
    exposeHeadRoutes: false,
    frameworkErrors: (error, request, reply) => {
      replyFailure(error, request, reply, api.sandboxes);
    },
    genReqId: () => `req-${randomHex(8)}`,
    serverFactory: (handle) => makeServer(handle, { previews, tls: api.tls, log }),
    routerOptions: { maxParamLength: 1000 },
    // The routes answer during a shutdown: a poll for a result is told to poll again.
    return503OnClosing: false,
  });

  // Each route reads its own body, because clients send bodies with any Content-Type or none.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  app.addHook("onRequest", (request, reply, done) => {
    delete request.raw.headers["content-type"];
    reply.raw.setHeader("x-request-id", request.id);
    done();
  });

  if (tracer !== undefined) traceRequests(app, tracer);
  requests.watch(app);
  allowAllOrigins(app);
  replyErrors(app, api.sandboxes);
  closeAfterUnreadBody(app);
  refuseBeforeSending(app, previews, log);
  routeUpgrades(app, previews, log);

  serveHealth(app, api);
  serveDashboard(app, api);
  serveSigned(app, api);
  await serveE2bApi(app, api);
  await app.register((withKey, _options, done) => {
    auditCalls(withKey, api.audit);
    requireKey(withKey, api);
    serveSandboxes(withKey, api);
    serveLifecycle(withKey, api);
    serveCheckpoints(withKey, api);
    serveImages(withKey, api);
    serveTemplates(withKey, api);
    serveTags(withKey, api);
    serveSettings(withKey, api);
    serveNetwork(withKey, api);
    serveEnvironment(withKey, api);
    serveHost(withKey, api);
    serveLogs(withKey, api);
    servePreviews(withKey, api);
    servePorts(withKey, api);
    serveExec(withKey, api);
    serveExecStream(withKey, api);
    serveExecSessions(withKey, api);
    serveAgentSessions(withKey, api);
    serveFiles(withKey, api);
    serveSigning(withKey, api);
    serveEvents(withKey, api);
    serveWebhooks(withKey, api);
    serveSecretStores(withKey, api);
    serveUsage(withKey, api);
    serveAudit(withKey, api);
    serveWorkers(withKey, api);
    serveTokens(withKey, api);
    serveSshKeys(withKey, api);
    serveApiKeys(withKey, api);
    serveNotYet(withKey);
    done();
  });
  await app.ready();
  return app;
}

/** Starts listening and returns the server's URL. @throws `unavailable` when it cannot listen */
export async function listen(app: FastifyInstance, { host, port }: { host: string; port: number }): Promise<string> {
  try {
    const url = await app.listen({ host, port });
    return app.server instanceof TlsServer ? url.replace(/^http:/, "https:") : url;
  } catch (error) {
    throw listenError(error, host, port);
  }
}

function listenError(error: unknown, host: string, port: number): SandboxError {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  const message =
    code === "EADDRINUSE"
      ? `port ${port} on ${host} is in use: stop the other program or set OPENSANDBOX_PORT`
      : `cannot listen on ${host} port ${port}: ${error instanceof Error ? error.message : String(error)}`;
  return new SandboxError("unavailable", message, { cause: error });
}

const maxBodyBytes = Math.max(...publicRoutes.map(({ bodyLimit }) => bodyLimit ?? defaultBodyLimit));

/** Answers `Expect: 100-continue`: a body that is too large for every route is refused before the client sends it. */
function refuseBeforeSending(app: FastifyInstance, previews: PreviewGateway, log: Log): void {
  app.server.on("checkContinue", (request: IncomingMessage, response: ServerResponse) => {
    withinConnection(request.socket, log, () => {
      // Only an uploaded file exceeds the limit of JSON bodies; a sandbox's own server sets its own limits.
      if (request.method === "PUT" || previews.isPreview(request) || !isTooLarge(request, maxBodyBytes))
        response.writeContinue();
      app.server.emit("request", request, response);
    });
  });
}
