import type { IncomingMessage, ServerResponse } from "node:http";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { envdPort } from "@opensandbox/wire/e2b/envd.ts";
import { e2bErrorOf } from "@opensandbox/wire/e2b/errors.ts";
import { randomHex, sandboxIdPattern, type SandboxId } from "@opensandbox/wire/ids.ts";
import { withinConnection } from "#http/connection-boundary.ts";
import { type Answer, jsonAnswer, sendAnswer } from "#http/previews/preview-answers.ts";
import type { PortManner, PreviewGateway } from "#http/previews/preview-gateway.ts";
import { credentialsOf } from "#http/previews/preview-headers.ts";
import { failureOf } from "#http/reply-error.ts";
import { hostnameOf, type PreviewTarget } from "#previews/preview-target.ts";
import { isPreviewToken } from "#previews/preview-token.ts";
import { type E2bContext, endPause, findReachable, withoutSuffix } from "./e2b-context.ts";
import type { EnvdContext } from "./envd/envd-call.ts";
import { isSigned, signedRequestOf } from "./envd/file-transfer.ts";
import { interpreterPort, startInterpreter } from "./code-interpreter.ts";
import { LiveProcesses } from "./envd/live-processes.ts";
import { notFoundBody, serveEnvd } from "./envd/serve-envd.ts";
import { Watchers } from "./envd/watchers.ts";

const idHeader = "e2b-sandbox-id";
const portHeader = "e2b-sandbox-port";
const trafficHeader = "e2b-traffic-access-token";
const hostLabel = new RegExp(`^(\\d{1,5})-(${sandboxIdPattern.source})$`, "i");

/** Serves requests for the inside and the ports of sandboxes as clients of E2B address them, in front of `others`. */
export function e2bGateway(e2b: E2bContext, others: PreviewGateway): PreviewGateway {
  const { log, clock } = e2b.sandboxes;
  const context: EnvdContext = { ...e2b, processes: new LiveProcesses(clock), watchers: new Watchers() };
  const manner = portManner(context);
  return {
    ...others,
    request(request, response, otherwise) {
      const target = targetOf(request);
      if (target === undefined && !isSignedFile(request)) return others.request(request, response, otherwise);
      withinConnection(request.socket, log, async () => {
        if (target !== undefined && target.port !== envdPort) {
          return await others.forward({ manner, target }, request, response);
        }
        response.setHeader("access-control-allow-origin", "*");
        if (request.method === "OPTIONS") return answerPreflight(request, response);
        const id = target?.sandboxId ?? (await signedSandbox(context, request));
        await serveInside(context, id, request, response);
      });
    },
    upgrade(request, socket, head, otherwise) {
      const target = targetOf(request);
      if (target === undefined || target.port === envdPort) return others.upgrade(request, socket, head, otherwise);
      withinConnection(socket, log, () => others.forwardUpgrade({ manner, target }, { request, socket, head }));
    },
    isPreview: (request) => targetOf(request) !== undefined || isSignedFile(request) || others.isPreview(request),
  };
}

/** The sandbox and port that a request names: in its host name as `{port}-{sandboxId}.`, or in headers. */
function targetOf({ headers }: IncomingMessage): PreviewTarget | undefined {
  const [label = ""] = hostnameOf(headers.host).split(".");
  const [, port, id] = hostLabel.exec(label) ?? [];
  if (port !== undefined && id !== undefined && Number(port) >= 1 && Number(port) <= 65_535) {
    return { sandboxId: id.toLowerCase() as SandboxId, port: Number(port) };
  }
  const named = headers[idHeader];
  if (typeof named !== "string" || named === "") return undefined;
  const wanted = Number(headers[portHeader] ?? envdPort);
  const isPort = Number.isInteger(wanted) && wanted >= 1 && wanted <= 65_535;
  return { sandboxId: withoutSuffix(named) as SandboxId, port: isPort ? wanted : envdPort };
}

/** A signed URL names no sandbox when all sandboxes share one address. */
function isSignedFile({ url = "" }: IncomingMessage): boolean {
  return url.startsWith("/files?") && url.includes("signature=");
}

/** The running sandbox whose token signed the URL, or an empty id when there is none. */
async function signedSandbox(context: E2bContext, { method, url = "/" }: IncomingMessage): Promise<string> {
  const signed = signedRequestOf(method, new URL(url, "http://sandbox").searchParams);
  const { stores } = context.sandboxes;
  const running = signed === undefined ? [] : await stores.sandboxes.listRunning();
  return running.find(({ id }) => signed !== undefined && isSigned(context, id, signed))?.id ?? "";
}

async function serveInside(
  context: EnvdContext,
  named: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const found = await findReachable(context, named);
  if (found !== undefined) return await serveEnvd(context, found, request, response);
  request.resume();
  // No running sandbox has signed the URL.
  if (named === "") return sendAnswer(response, jsonAnswer(401, { code: 401, message: "invalid signature" }));
  sendAnswer(response, jsonAnswer(502, notFoundBody(named)));
}

/** Handles requests to ports of sandboxes: the traffic token admits them, and failures are JSON. */
function portManner(context: E2bContext): PortManner {
  return {
    ownHeaders: new Set([idHeader, portHeader, trafficHeader]),
    waitsForPages: false,
    async admit({ id, previewTokenHash: hash }, request) {
      const found = await findReachable(context, id);
      if (found === undefined) {
        throw new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id });
      }
      if (hash !== undefined) requireTrafficToken(hash, request);
      await endPause(context, found);
    },
    async prepare(sandbox, port, signal) {
      if (port === interpreterPort) await startInterpreter(context, sandbox, signal);
    },
    failure: (_request, target, error) => failureAnswer(context, target, error),
  };
}

/** @throws `permission_denied` */
function requireTrafficToken(hash: string, request: IncomingMessage): void {
  const given = request.headers[trafficHeader];
  const tokens = [...(typeof given === "string" ? [given] : []), ...credentialsOf(request)];
  if (tokens.some((token) => isPreviewToken(token, hash))) return;
  const what = tokens.length === 0 ? "missing" : "invalid";
  throw new SandboxError("permission_denied", `the traffic access token is ${what}`);
}

function failureAnswer({ sandboxes }: E2bContext, { sandboxId, port }: PreviewTarget, error: unknown): Answer {
  if (isSandboxError(error, "not_found") && error.details.resource === "port") {
    const message = "The sandbox is running but port is not open";
    return jsonAnswer(502, { sandboxId, message, port, code: 502 });
  }
  const isGone =
    isSandboxError(error, "not_found") || isSandboxError(error, "gone") || isSandboxError(error, "wrong_state");
  if (isGone) return jsonAnswer(502, notFoundBody(sandboxId));
  const { body } = failureOf(error, `req-${randomHex(8)}`, sandboxes);
  const failure = e2bErrorOf({ code: body.code ?? "internal", message: body.error });
  return jsonAnswer(failure.status, { sandboxId, port, ...failure.body });
}

function answerPreflight({ headers }: IncomingMessage, response: ServerResponse): void {
  response.writeHead(204, {
    "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
    "access-control-allow-headers": headers["access-control-request-headers"] ?? "*",
    "access-control-max-age": "86400",
  });
  response.end();
}
