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
  /** Serves a request to a port that another interface has found. */
  forward(to: Addressed, request: IncomingMessage, response: ServerResponse): Promise<void>;
  forwardUpgrade(to: Addressed, upgrade: Upgrade): Promise<void>;
}

/** A port of a sandbox, and the manner of the interface that a request to it uses. */
export interface Addressed {
  readonly manner: PortManner;
  readonly target: PreviewTarget;
}

/** How an interface admits requests to ports, and how it words failures. */
export interface PortManner {
  /** @throws when the request must not reach the sandbox */
  admit(sandbox: Sandbox, request: IncomingMessage): void | Promise<void>;
  /** Runs before each connection to a port of a sandbox that runs. */
  prepare?(sandbox: Sandbox, port: number, signal: AbortSignal): Promise<void>;
  failure(request: IncomingMessage, target: PreviewTarget, error: unknown): Answer;
  /** Headers of requests that are for this server, in lower case. */
  readonly ownHeaders: ReadonlySet<string>;
  /** Whether a browser gets a waiting page during a wake. */
  readonly waitsForPages: boolean;
}

interface Upgrade {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  readonly head: Buffer;
}

export function previewGateway(context: ApiContext): PreviewGateway {
  const api = { ...context, unknownNames: new UnknownNames(context.sandboxes.clock) };
  const manner: PortManner = {
    admit: requireToken,
    failure: (request, target, error) => failureAnswer(request, target, error, context.sandboxes),
    ownHeaders: new Set(),
    waitsForPages: true,
  };
  return {
    request(request, response, otherwise) {
      decide(api, request, otherwise, (target) => serveRequest(api, { manner, target }, request, response));
    },
    upgrade(request, socket, head, otherwise) {
      decide(api, request, otherwise, (target) => serveUpgrade(api, { manner, target }, { request, socket, head }));
    },
    forward: (to, request, response) => serveRequest(api, to, request, response),
    forwardUpgrade: (to, upgrade) => serveUpgrade(api, to, upgrade),
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
  to: Addressed,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  closeAfterUnread(request, response);
  const gone = new AbortController();
  response.once("close", () => gone.abort(new SandboxError("canceled", "the client disconnected")));
  const answer = (answer: Answer): void => sendAnswer(response, answer);
  try {
    const connected = await connect(api, to, request, gone);
    if ("answer" in connected) return answer(connected.answer);
    const timeoutMs = api.timing.previewAnswerMs;
    await forwardRequest({ request, response, ...connected, timeoutMs });
  } catch (error) {
    answer(to.manner.failure(request, to.target, error));
  } finally {
    gone.abort();
  }
}

async function serveUpgrade(api: GatewayContext, to: Addressed, { request, socket, head }: Upgrade): Promise<void> {
  const gone = new AbortController();
  socket.on("error", () => socket.destroy());
  socket.once("close", () => gone.abort(new SandboxError("canceled", "the client disconnected")));
  try {
    const connected = await connect(api, to, request, gone);
    if ("answer" in connected) return answerOnSocket(socket, connected.answer);
    const timeoutMs = api.timing.previewAnswerMs;
    await forwardUpgrade({ request, socket, head, ...connected, timeoutMs });
  } catch (error) {
    answerOnSocket(socket, to.manner.failure(request, to.target, error));
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
  { manner, target: { sandboxId, port, refusal } }: Addressed,
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
  await manner.admit(sandbox, request);
  unknownNames.hit(sandboxId);
  const waits = manner.waitsForPages && isNavigation(request);
  const use = await useOrWait(api, sandbox, waits ? timing.previewWaitMs : undefined, signal);
  if (use === undefined) return { answer: wakingAnswer };
  try {
    await manner.prepare?.(sandbox, port, signal);
    const connection = await openGuestPort(sandboxes.worker, sandboxId, port, signal);
    const stream = portStream(connection, () => gone.abort());
    signal.addEventListener("abort", () => stream.destroy(), { once: true });
    if (signal.aborted) stream.destroy();
    const { isApiKey } = api;
    const hasToken = sandbox.previewTokenHash !== undefined;
    const headers = previewHeaders(request, { hasToken, isApiKey, ownHeaders: manner.ownHeaders });
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
  const using = useSandbox(sandboxes, organizationId, id, signal);
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

/** @throws `unauthenticated` */
function requireToken({ previewTokenHash: hash }: Sandbox, request: IncomingMessage): void {
  if (hash === undefined || credentialsOf(request).some((token) => isPreviewToken(token, hash))) return;
  const message = "this preview requires its token, as Authorization: Bearer or X-OC-Preview-Token";
  throw new SandboxError("unauthenticated", message);
}
