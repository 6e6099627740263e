import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { openGuestPort } from "#previews/open-guest-port.ts";
import { portStream } from "#previews/port-stream.ts";
import { isPreviewToken } from "#previews/preview-token.ts";
import { targetOfHost, type PreviewTarget } from "#previews/preview-target.ts";
import type { Use } from "#lifecycle/activity.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import type { ApiContext } from "../api-context.ts";
import { forwardRequest } from "./forward-request.ts";
import { forwardUpgrade } from "./forward-upgrade.ts";
import { answerOnSocket, failureAnswer, sendAnswer, wakingAnswer, type Answer } from "./preview-answers.ts";
import { credentialsOf, previewHeaders } from "./preview-headers.ts";
import { closeAfterUnread } from "#http/requests/unread-body.ts";

/** Takes requests to sandboxes' ports out of the API's way. */
export interface PreviewGateway {
  request(request: IncomingMessage, response: ServerResponse, otherwise: () => void): void;
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, otherwise: () => void): void;
  /** Whether a request is plainly for a sandbox. */
  isPreview(request: IncomingMessage): boolean;
}

export function previewGateway(api: ApiContext): PreviewGateway {
  return {
    request(request, response, otherwise) {
      decide(api, request, otherwise, (target) => {
        void serveRequest(api, target, request, response);
      });
    },
    upgrade(request, socket, head, otherwise) {
      decide(api, request, otherwise, (target) => {
        void serveUpgrade(api, target, { request, socket, head });
      });
    },
    isPreview: ({ headers }) => targetOfHost(headers.host) !== undefined,
  };
}

function decide(
  { previewTargets, sandboxes }: ApiContext,
  { headers }: IncomingMessage,
  otherwise: () => void,
  serve: (target: PreviewTarget) => void,
): void {
  const act = (target: PreviewTarget | undefined): void => (target === undefined ? otherwise() : serve(target));
  const found = previewTargets.find(headers.host);
  if (!(found instanceof Promise)) return act(found);
  found.then(act, (error: unknown) => {
    sandboxes.log("error", "a host name could not be looked up", { host: headers.host, error: String(error) });
    otherwise();
  });
}

async function serveRequest(
  api: ApiContext,
  target: PreviewTarget,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  closeAfterUnread(request, response);
  const gone = new AbortController();
  response.once("close", () => gone.abort(new SandboxError("canceled", "the caller went away")));
  const answer = (answer: Answer): void => sendAnswer(response, answer);
  try {
    const connected = await connect(api, target, request, gone);
    if ("answer" in connected) return answer(connected.answer);
    const { stream, use, headers } = connected;
    await forwardRequest({ request, response, stream, use, headers, timeoutMs: api.timing.previewAnswerMs });
  } catch (error) {
    answer(failureAnswer(request, target, error, api.sandboxes));
  } finally {
    gone.abort();
  }
}

async function serveUpgrade(
  api: ApiContext,
  target: PreviewTarget,
  { request, socket, head }: { readonly request: IncomingMessage; readonly socket: Duplex; readonly head: Buffer },
): Promise<void> {
  const gone = new AbortController();
  socket.on("error", () => socket.destroy());
  socket.once("close", () => gone.abort(new SandboxError("canceled", "the caller went away")));
  try {
    const connected = await connect(api, target, request, gone);
    if ("answer" in connected) return answerOnSocket(socket, connected.answer);
    const { stream, use, headers } = connected;
    await forwardUpgrade({ request, socket, head, stream, use, headers, timeoutMs: api.timing.previewAnswerMs });
  } catch (error) {
    answerOnSocket(socket, failureAnswer(request, target, error, api.sandboxes));
  } finally {
    gone.abort();
  }
}

/** A connection to the port, and what is held while it is used. */
interface Connected {
  readonly stream: Duplex;
  /** May be disposed before the connection ends: who only waits does not keep a sandbox awake. */
  readonly use: Use;
  readonly headers: readonly string[];
}

async function connect(
  api: ApiContext,
  { sandboxId, port }: PreviewTarget,
  request: IncomingMessage,
  gone: AbortController,
): Promise<Connected | { readonly answer: Answer }> {
  const { sandboxes, timing } = api;
  const signal = AbortSignal.any([gone.signal, sandboxes.ending]);
  const sandbox = await sandboxes.store.find(sandboxId);
  if (sandbox === undefined || sandbox.hidden) {
    throw new SandboxError("not_found", "there is no such sandbox", { resource: "sandbox", id: sandboxId });
  }
  requireToken(sandbox, request);
  const use = await useOrWait(api, sandbox, isNavigation(request) ? timing.previewWaitMs : undefined, signal);
  if (use === undefined) return { answer: wakingAnswer };
  try {
    const connection = await openGuestPort(sandboxes.worker, sandboxId, port, signal);
    const stream = portStream(connection, () => gone.abort());
    signal.addEventListener("abort", () => stream.destroy(), { once: true });
    const headers = previewHeaders(request, { hasToken: sandbox.previewTokenHash !== undefined });
    return { stream, use, headers };
  } catch (error) {
    use[Symbol.dispose]();
    throw error;
  }
}

/** A request that somebody looks at while it is answered: with a page it can wait, with anything else it must not. */
function isNavigation({ method, headers }: IncomingMessage): boolean {
  return (method === "GET" || method === "HEAD") && (headers.accept ?? "").includes("text/html");
}

/** Undefined when that takes longer than the caller waits; it goes on all the same. Disposing it again does nothing. */
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
  const message = "this preview needs its token: as Authorization: Bearer or as X-OC-Preview-Token";
  throw new SandboxError("unauthenticated", message);
}
