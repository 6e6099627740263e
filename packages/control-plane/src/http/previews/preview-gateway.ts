import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { openGuestPort } from "#previews/open-guest-port.ts";
import { portStream } from "#previews/port-stream.ts";
import { isPreviewToken } from "#previews/preview-token.ts";
import { targetOfHost, type PreviewTarget } from "#previews/preview-target.ts";
import type { Use } from "#lifecycle/activity.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import type { ApiContext } from "../api-context.ts";
import { withinConnection } from "../connection-boundary.ts";
import { forwardRequest } from "./forward-request.ts";
import { forwardUpgrade } from "./forward-upgrade.ts";
import { answerOnSocket, failureAnswer, sendAnswer, wakingAnswer, type Answer } from "./preview-answers.ts";
import { UnknownNames } from "./unknown-names.ts";
import { credentialsOf, previewHeaders, withoutKeyParameters } from "./preview-headers.ts";
import { closeAfterUnread } from "#http/requests/unread-body.ts";

/** Serves requests to the ports of sandboxes, in front of the API. */
export interface PreviewGateway {
  request(request: IncomingMessage, response: ServerResponse, otherwise: () => void): void;
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, otherwise: () => void): void;
  /** Whether the host name alone shows that a request is for a sandbox. */
  isPreview(request: IncomingMessage): boolean;
}

export function previewGateway(context: ApiContext): PreviewGateway {
  const api = { ...context, unknownNames: new UnknownNames(context.sandboxes.clock) };
  return {
    request(request, response, otherwise) {
      decide(api, request, otherwise, (target) => serveRequest(api, target, request, response));
    },
    upgrade(request, socket, head, otherwise) {
      decide(api, request, otherwise, (target) => serveUpgrade(api, target, { request, socket, head }));
    },
    isPreview: ({ headers }) => targetOfHost(headers.host) !== undefined,
  };
}

function decide(
  { previewTargets, sandboxes: { log } }: ApiContext,
  { headers, socket }: IncomingMessage,
  otherwise: () => void,
  serve: (target: PreviewTarget) => Promise<void>,
): void {
  const act = (target: PreviewTarget | undefined): void | Promise<void> =>
    target === undefined ? otherwise() : serve(target);
  withinConnection(socket, log, () => {
    const found = previewTargets.find(headers.host);
    if (!(found instanceof Promise)) return act(found);
    return found
      .catch((error: unknown) => {
        log("error", "cannot look up a custom domain; the request goes to the API", {
          host: headers.host,
          ...describeError(error),
        });
        return undefined;
      })
      .then(act);
  });
}

async function serveRequest(
  api: GatewayContext,
  target: PreviewTarget,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  closeAfterUnread(request, response);
  const gone = new AbortController();
  response.once("close", () => gone.abort(new SandboxError("canceled", "the client disconnected")));
  const answer = (answer: Answer): void => sendAnswer(response, answer);
  try {
    const connected = await connect(api, target, request, gone);
    if ("answer" in connected) return answer(connected.answer);
    const timeoutMs = api.timing.previewAnswerMs;
    await forwardRequest({ request, response, ...connected, timeoutMs });
  } catch (error) {
    answer(failureAnswer(request, target, error, api.sandboxes));
  } finally {
    gone.abort();
  }
}

async function serveUpgrade(
  api: GatewayContext,
  target: PreviewTarget,
  { request, socket, head }: { readonly request: IncomingMessage; readonly socket: Duplex; readonly head: Buffer },
): Promise<void> {
  const gone = new AbortController();
  socket.on("error", () => socket.destroy());
  socket.once("close", () => gone.abort(new SandboxError("canceled", "the client disconnected")));
  try {
    const connected = await connect(api, target, request, gone);
    if ("answer" in connected) return answerOnSocket(socket, connected.answer);
    const timeoutMs = api.timing.previewAnswerMs;
    await forwardUpgrade({ request, socket, head, ...connected, timeoutMs });
  } catch (error) {
    answerOnSocket(socket, failureAnswer(request, target, error, api.sandboxes));
  } finally {
    gone.abort();
  }
}

interface GatewayContext extends ApiContext {
  readonly unknownNames: UnknownNames;
}

/** A connection to the port, and the call that it is part of. */
interface Connected {
  readonly stream: Duplex;
  /** The use may be disposed before the connection ends: waiting for data does not keep a sandbox awake. */
  readonly use: Use;
  readonly path: string;
  readonly headers: readonly string[];
}

async function connect(
  api: GatewayContext,
  { sandboxId, port, refusal }: PreviewTarget,
  request: IncomingMessage,
  gone: AbortController,
): Promise<Connected | { readonly answer: Answer }> {
  if (refusal !== undefined) throw new SandboxError("permission_denied", refusal);
  const { sandboxes, timing, unknownNames } = api;
  const signal = AbortSignal.any([gone.signal, sandboxes.shutdown.ending]);
  const address = request.socket.remoteAddress ?? "";
  if (unknownNames.isRefused(address, sandboxId)) {
    throw new SandboxError(
      "quota_exceeded",
      "too many requests for sandboxes that do not exist: try again in a minute",
    );
  }
  const sandbox = await sandboxes.stores.sandboxes.find(sandboxId);
  if (sandbox === undefined || sandbox.hidden) {
    unknownNames.miss(address);
    throw new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id: sandboxId });
  }
  requireToken(sandbox, request);
  unknownNames.hit(sandboxId);
  const use = await useOrWait(api, sandbox, isNavigation(request) ? timing.previewWaitMs : undefined, signal);
  if (use === undefined) return { answer: wakingAnswer };
  try {
    const connection = await openGuestPort(sandboxes.worker, sandboxId, port, signal);
    const stream = portStream(connection, () => gone.abort());
    signal.addEventListener("abort", () => stream.destroy(), { once: true });
    if (signal.aborted) stream.destroy();
    const { isApiKey } = api;
    const headers = previewHeaders(request, { hasToken: sandbox.previewTokenHash !== undefined, isApiKey });
    return { stream, use, headers, path: withoutKeyParameters(pathOf(request), isApiKey) };
  } catch (error) {
    use[Symbol.dispose]();
    throw error;
  }
}

/** The path of the request. A client that takes this server for its proxy writes scheme and host before it. */
function pathOf({ url = "/" }: IncomingMessage): string {
  return url.startsWith("/") || !URL.canParse(url) ? url : new URL(url).pathname + new URL(url).search;
}

/** Whether a browser shows the answer as a page, so that a waiting page can stand in for it. */
function isNavigation({ method, headers }: IncomingMessage): boolean {
  return (method === "GET" || method === "HEAD") && (headers.accept ?? "").includes("text/html");
}

/** Begins a call. Undefined: the wake takes longer than `waitMs`, and continues. A second disposal does nothing. */
async function useOrWait(
  { sandboxes }: ApiContext,
  { organizationId, id, state }: Sandbox,
  waitMs: number | undefined,
  signal: AbortSignal,
): Promise<Use | undefined> {
  const using = useSandbox(sandboxes, organizationId, id, signal).then(disposedOnce);
  if (waitMs === undefined || state === "running") return using;
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), waitMs);
  try {
    const use = await Promise.race([using, late.promise]);
    if (use === undefined)
      using.then(
        (unwanted) => unwanted[Symbol.dispose](),
        () => {},
      );
    return use;
  } finally {
    clearTimeout(timer);
  }
}

function disposedOnce(use: Use): Use {
  let held = true;
  return {
    touch: () => use.touch(),
    [Symbol.dispose]: () => {
      if (held) use[Symbol.dispose]();
      held = false;
    },
  };
}

/** @throws `unauthenticated` */
function requireToken({ previewTokenHash: hash }: Sandbox, request: IncomingMessage): void {
  if (hash === undefined || credentialsOf(request).some((token) => isPreviewToken(token, hash))) return;
  const message = "this preview requires its token, as Authorization: Bearer or X-OC-Preview-Token";
  throw new SandboxError("unauthenticated", message);
}
