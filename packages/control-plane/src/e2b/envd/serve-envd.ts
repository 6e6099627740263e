import type { IncomingMessage, ServerResponse } from "node:http";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { messageIn } from "@opensandbox/wire/e2b/connect.ts";
import * as wire from "@opensandbox/wire/e2b/envd.ts";
import { connectFailureOf, connectStatus, e2bErrorOf } from "@opensandbox/wire/e2b/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { parse, type Route } from "@opensandbox/wire/route.ts";
import { failureOf } from "#http/reply-error.ts";
import { closeAfterUnread } from "#http/requests/unread-body.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { measureGuest } from "../api/metrics.ts";
import { accessTokenOf, endPause, equalInConstantTime, type Shown } from "../e2b-context.ts";
import { accountOf, prepareGuest } from "../guest-user.ts";
import { ConnectStream } from "./connect-stream.ts";
import { bytesOf, type EnvdCall, type EnvdContext, hasEnded, sendJson, unzipped } from "./envd-call.ts";
import { download, isSigned, requireUnexpired, signedRequestOf, transferStatus, upload } from "./file-transfer.ts";
import * as filesystem from "./filesystem.ts";
import * as processes from "./processes.ts";
import * as watch from "./watch.ts";

type Schema<Body> = NonNullable<Route<Body>["body"]>;
type Unary = (call: EnvdCall, body: unknown) => Promise<object>;
type Streaming = (call: EnvdCall, body: unknown, stream: ConnectStream) => Promise<void>;

/** The calls with one answer. */
const unary: ReadonlyMap<string, Unary> = new Map([
  unaryOf("/process.Process/List", wire.NoRequest, processes.listProcesses),
  unaryOf("/process.Process/SendInput", wire.SendInputRequest, processes.sendInput),
  unaryOf("/process.Process/CloseStdin", wire.ConnectRequest, processes.closeStdin),
  unaryOf("/process.Process/SendSignal", wire.SendSignalRequest, processes.sendSignal),
  unaryOf("/process.Process/Update", wire.UpdateRequest, processes.resizeTerminal),
  unaryOf("/filesystem.Filesystem/Stat", wire.PathRequest, filesystem.stat),
  unaryOf("/filesystem.Filesystem/MakeDir", wire.PathRequest, filesystem.makeDirectory),
  unaryOf("/filesystem.Filesystem/Move", wire.MoveRequest, filesystem.move),
  unaryOf("/filesystem.Filesystem/ListDir", wire.ListDirRequest, filesystem.listDirectory),
  unaryOf("/filesystem.Filesystem/Remove", wire.PathRequest, filesystem.remove),
  unaryOf("/filesystem.Filesystem/CreateWatcher", wire.WatchRequest, watch.createWatcher),
  unaryOf("/filesystem.Filesystem/GetWatcherEvents", wire.WatcherRequest, watch.takeEvents),
  unaryOf("/filesystem.Filesystem/RemoveWatcher", wire.WatcherRequest, watch.removeWatcher),
]);

/** The calls whose answer is a stream, with their keep-alive. */
const streaming: ReadonlyMap<string, { readonly serve: Streaming; readonly keepAlive: object }> = new Map([
  streamingOf("/process.Process/Start", wire.StartRequest, wire.keepAliveEvent, processes.startProcess),
  streamingOf("/process.Process/Connect", wire.ConnectRequest, wire.keepAliveEvent, processes.connectProcess),
  streamingOf("/filesystem.Filesystem/WatchDir", wire.WatchRequest, { keepalive: {} }, watch.watchDirectory),
]);

/** Every call to the inside of a sandbox, for tests that cover all of them. */
export const envdCalls: readonly string[] = [
  ...[...unary.keys(), ...streaming.keys()].map((path) => `POST ${path}`),
  ...["GET /files", "POST /files", "GET /metrics", "GET /envs"],
];

function unaryOf<Body>(
  path: string,
  schema: Schema<Body>,
  serve: (call: EnvdCall, body: Body) => Promise<object>,
): [string, Unary] {
  return [path, async (call, body) => await serve(call, parse(schema, body))];
}

function streamingOf<Body>(
  path: string,
  schema: Schema<Body>,
  keepAlive: object,
  serve: (call: EnvdCall, body: Body, stream: ConnectStream) => Promise<void>,
): [string, { serve: Streaming; keepAlive: object }] {
  return [path, { serve: async (call, body, stream) => await serve(call, parse(schema, body), stream), keepAlive }];
}

/** Answers a call to the inside of a sandbox, which its guest agent carries out. */
export async function serveEnvd(
  context: EnvdContext,
  found: Shown,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { sandbox, facts } = found;
  closeAfterUnread(request, response);
  const url = new URL(request.url ?? "/", "http://sandbox");
  if (url.pathname === "/health") {
    // Looking at a sandbox does not wake it.
    return facts.paused ? sendJson(response, 502, notFoundBody(sandbox.id)) : void response.writeHead(204).end();
  }
  const gone = new AbortController();
  response.once("close", () => gone.abort(new SandboxError("canceled", "the client disconnected")));
  const signal = AbortSignal.any([gone.signal, context.sandboxes.shutdown.ending]);
  try {
    requireAccess(context, sandbox, request, url);
    await endPause(context, found);
    await serveAdmitted(context, { sandbox, url, request, response, signal });
  } catch (error) {
    answerFailure(context, { sandbox, url, response }, error);
  } finally {
    gone.abort();
  }
}

/** @throws `unauthenticated` unless the request has the sandbox's token, or its signature */
function requireAccess(context: EnvdContext, { id }: Sandbox, request: IncomingMessage, url: URL): void {
  const token = request.headers["x-access-token"];
  if (typeof token === "string" && equalInConstantTime(token, accessTokenOf(context, id))) return;
  if (url.pathname !== "/files" || typeof token === "string") {
    throw new SandboxError("unauthenticated", "the access token of the sandbox (X-Access-Token) is missing or wrong");
  }
  const signed = signedRequestOf(request.method, url.searchParams);
  if (signed === undefined) throw new SandboxError("unauthenticated", "missing signature query parameter");
  if (!isSigned(context, id, signed)) throw new SandboxError("unauthenticated", "invalid signature");
  requireUnexpired(signed, context.sandboxes.clock.now());
}

interface Admitted {
  readonly sandbox: Sandbox;
  readonly url: URL;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly signal: AbortSignal;
}

async function serveAdmitted(
  context: EnvdContext,
  { sandbox, url, request, response, signal }: Admitted,
): Promise<void> {
  const { sandboxes } = context;
  const { id, organizationId } = sandbox;
  const { pathname } = url;
  using use = await useSandbox(sandboxes, organizationId, id, signal);
  // A wake may have changed its generation.
  const running = await sandboxes.stores.sandboxes.get(organizationId, id);
  await prepareGuest(context, running, signal);
  const name = pathname === "/files" ? (url.searchParams.get("username") ?? undefined) : userOf(request);
  const account = await accountOf(context, id, name, signal);
  const guest = sandboxes.worker.guest(id);
  const call: EnvdCall = { context, sandbox: running, id, guest, use, account, request, response, signal };

  const answer = unary.get(pathname);
  if (answer !== undefined && request.method === "POST") {
    return sendJson(response, 200, await answer(call, jsonOf(await bytesOf(request))));
  }
  const stream = streaming.get(pathname);
  if (stream !== undefined && request.method === "POST") return await serveStream(call, stream);
  switch (`${request.method} ${pathname}`) {
    case "GET /files":
      return await download(call, url.searchParams);
    case "POST /files":
      return await upload(call, url.searchParams);
    case "GET /envs":
      return sendJson(response, 200, running.envs);
    case "GET /metrics":
      return sendJson(response, 200, await metricsOf(call));
    default:
      sendJson(response, 404, { code: 404, message: `there is no call ${request.method} ${pathname}` });
  }
}

async function serveStream(
  call: EnvdCall,
  { serve, keepAlive }: { readonly serve: Streaming; readonly keepAlive: object },
): Promise<void> {
  const { request, response } = call;
  using stream = new ConnectStream(response, keepAlive, request.headers["keepalive-ping-interval"]);
  try {
    const { bytes, compressed } = messageIn(await bytesOf(request));
    await serve(call, jsonOf(compressed ? await unzipped(bytes) : bytes), stream);
  } catch (error) {
    // When the sandbox has ended, the connection is cut: a stream that ends in order would look complete.
    if (await hasEnded(call)) throw error;
    stream.end(connectFailureOf(wordsOf(call.context, error)));
  }
}

async function metricsOf({ context, id, signal }: EnvdCall): Promise<object> {
  const { measured } = await measureGuest(context, id, undefined, signal);
  return {
    ts: measured.timestampUnix,
    cpu_count: measured.cpuCount,
    cpu_used_pct: measured.cpuUsedPct,
    mem_total: measured.memTotal,
    mem_used: measured.memUsed,
    mem_cache: measured.memCache,
    disk_used: measured.diskUsed,
    disk_total: measured.diskTotal,
  };
}

/** The user that a client names in its Basic authorization. */
function userOf({ headers }: IncomingMessage): string | undefined {
  const encoded = /^Basic +(\S+)$/i.exec(headers.authorization ?? "")?.[1];
  return encoded === undefined ? undefined : Buffer.from(encoded, "base64").toString("utf8").split(":")[0];
}

function jsonOf(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString("utf8") || "{}") as unknown;
  } catch (cause) {
    throw new SandboxError("invalid_argument", "the request is not JSON", { cause });
  }
}

/** The error as a client may see it: an unexpected one is logged, and its details stay in the log. */
function wordsOf({ sandboxes }: EnvdContext, error: unknown): Pick<SandboxError, "code" | "message"> {
  const { body } = failureOf(error, `req-${randomHex(8)}`, sandboxes);
  return { code: body.code ?? "internal", message: body.error };
}

function answerFailure(
  context: EnvdContext,
  { sandbox, url, response }: Pick<Admitted, "sandbox" | "url" | "response">,
  error: unknown,
): void {
  if (response.headersSent || response.destroyed) return void response.destroy();
  if (isGone(error)) return sendJson(response, 502, notFoundBody(sandbox.id));
  const words = wordsOf(context, error);
  if (url.pathname === "/files") {
    const { status, body } = e2bErrorOf(words);
    const ours = transferStatus(error) ?? status;
    return sendJson(response, ours, { ...body, code: ours });
  }
  const failure = connectFailureOf(words);
  sendJson(response, connectStatus[failure.code], failure);
}

function isGone(error: unknown): boolean {
  return (
    (isSandboxError(error, "gone") || isSandboxError(error, "not_found") || isSandboxError(error, "wrong_state")) &&
    error.details.resource === "sandbox"
  );
}

/** The reply of E2B's proxy when it finds no sandbox. */
export function notFoundBody(id: string): object {
  return { sandboxId: id, message: "The sandbox was not found", code: 502 };
}
