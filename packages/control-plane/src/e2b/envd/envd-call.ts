import type { IncomingMessage, ServerResponse } from "node:http";
import { createGunzip } from "node:zlib";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Guest } from "@opensandbox/wire/worker/guest.ts";
import type { Use } from "#lifecycle/activity.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { E2bContext } from "../e2b-context.ts";
import type { Account } from "../guest-user.ts";
import type { LiveProcesses } from "./live-processes.ts";
import type { Watchers } from "./watchers.ts";

/** State that all calls to the inside of sandboxes share. */
export interface EnvdContext extends E2bContext {
  readonly processes: LiveProcesses;
  readonly watchers: Watchers;
}

/** One admitted call to the inside of a running sandbox. */
export interface EnvdCall {
  readonly context: EnvdContext;
  readonly sandbox: Sandbox;
  readonly id: SandboxId;
  readonly guest: Guest;
  readonly use: Use;
  readonly account: Account;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** Aborted when the client disconnects or the server shuts down. */
  readonly signal: AbortSignal;
}

/** Whether the client has left or the sandbox does not run, so that no reply is due. */
export async function hasEnded({ context: { sandboxes }, id, signal }: EnvdCall): Promise<boolean> {
  if (signal.aborted) return true;
  const sandbox = await sandboxes.stores.sandboxes.find(id);
  return sandbox?.state !== "running";
}

/** The largest JSON body carries one message of standard input in base64. */
const maxBodyBytes = 8 * 2 ** 20;

/** The content of a request, decompressed. A failure leaves the socket open, so that the refusal can be sent. */
export async function* contentOf(request: IncomingMessage): AsyncGenerator<Uint8Array> {
  const encoding = (request.headers["content-encoding"] ?? "identity").toLowerCase();
  if (encoding !== "identity" && encoding !== "gzip") {
    throw new SandboxError("invalid_argument", `content-encoding ${encoding} is not supported: use gzip`);
  }
  const body = rawContentOf(request);
  yield* encoding === "gzip" ? gunzipped(body) : body;
}

/** The whole content of a request, decompressed. @throws `invalid_argument` above `maxBodyBytes` */
export async function bytesOf(request: IncomingMessage): Promise<Uint8Array> {
  return await collected(contentOf(request));
}

/** Decompresses a whole message. */
export async function unzipped(bytes: Uint8Array): Promise<Uint8Array> {
  return await collected(gunzipped([bytes]));
}

async function collected(content: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of content) {
    length += chunk.length;
    if (length > maxBodyBytes) {
      throw new SandboxError("invalid_argument", `the request is larger than ${maxBodyBytes / 2 ** 20} MiB`);
    }
    chunks.push(chunk);
  }
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
}

async function* rawContentOf(request: IncomingMessage): AsyncGenerator<Uint8Array> {
  try {
    yield* request.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
  } catch (cause) {
    throw new SandboxError("canceled", "the request was interrupted", { cause });
  }
}

async function* gunzipped(content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip();
  const feed = async (): Promise<void> => {
    for await (const chunk of content) {
      if (!gunzip.write(chunk)) await Promise.race([drained(gunzip), closed(gunzip)]);
    }
    gunzip.end();
  };
  feed().catch((error: unknown) => gunzip.destroy(asSandboxError(error)));
  try {
    yield* gunzip as AsyncIterable<Uint8Array>;
  } catch (cause) {
    if (asSandboxError(cause).code === "canceled") throw cause;
    throw new SandboxError("invalid_argument", "the request is not valid gzip", { cause });
  }
}

function drained(stream: NodeJS.EventEmitter): Promise<void> {
  return new Promise((resolve) => stream.once("drain", resolve));
}

function closed(stream: NodeJS.EventEmitter): Promise<void> {
  return new Promise((resolve) => stream.once("close", resolve));
}

export function sendJson(response: ServerResponse, status: number, body: object): void {
  if (response.headersSent || response.destroyed) return void response.destroy();
  const text = JSON.stringify(body);
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
  response.end(text);
}
