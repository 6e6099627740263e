import { Resolver } from "node:dns/promises";
import { type IncomingMessage, request as requestHttp } from "node:http";
import { request as requestHttps } from "node:https";
import { isIP, type LookupFunction } from "node:net";
import { isPublicAddress } from "#webhooks/public-address.ts";
import type { DeliveryRequest } from "#webhooks/webhook.ts";

/** The addresses of a host name. Tests replace it. */
export type ResolveHost = (hostname: string, signal: AbortSignal) => Promise<readonly string[]>;

export interface PostOptions {
  /** Whether addresses beyond the public internet may be reached. */
  readonly allowsPrivate: boolean;
  /** Default: DNS, with the name servers of this host. */
  readonly resolve?: ResolveHost | undefined;
}

/** How much of an answer's body is read, in bytes and in milliseconds. */
const maxAnswerBytes = 64 * 1024;
const answerBodyMs = 1000;

/**
 * Sends one request and returns the status of its answer. A redirect is not followed. The host name is resolved once,
 * and the connection goes to an address that was checked, so changing the name's address after the check has no effect.
 * @throws an error that says why no answer came
 */
export async function post(
  { url, headers, body, signal }: DeliveryRequest,
  { allowsPrivate, resolve = byDns }: PostOptions,
): Promise<number> {
  const target = new URL(url);
  const hostname = target.hostname.replace(/^\[|\]$/g, "");
  const found = isIP(hostname) === 0 ? await resolve(hostname, signal) : [hostname];
  signal.throwIfAborted();
  const addresses = allowsPrivate ? found : found.filter(isPublicAddress);
  if (addresses.length === 0) {
    const why = found.length === 0 ? "has no address" : "has no public address";
    throw new Error(`${hostname} ${why}`);
  }
  const { promise, resolve: answer, reject } = Promise.withResolvers<IncomingMessage>();
  const request = (target.protocol === "https:" ? requestHttps : requestHttp)(target, {
    method: "POST",
    // Each request has its own connection, since a kept one may have been closed by the receiver.
    agent: false,
    headers: { ...headers, "content-length": String(Buffer.byteLength(body)) },
    lookup: lookupOf(addresses),
    signal,
  });
  request.once("response", answer);
  request.on("error", reject);
  // After an answer or an error, this rejection has no effect.
  request.once("close", () => reject(new Error("the connection was closed without an answer")));
  request.end(body);
  const response = await promise;
  await discardBody(response);
  request.destroy();
  return response.statusCode ?? 0;
}

/** Answers every look-up of the connection with the checked addresses. */
function lookupOf(addresses: readonly string[]): LookupFunction {
  const found = addresses.map((address) => ({ address, family: isIP(address) }));
  return (_hostname, options, done) => {
    const [first] = found;
    if (options.all === true) done(null, found);
    else done(null, first?.address ?? "", first?.family);
  };
}

/**
 * Lets a receiver finish its answer, within bounds. The status decides the outcome, so a failure here changes nothing.
 */
async function discardBody(response: IncomingMessage): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, answerBodyMs);
  let bytes = 0;
  response.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > maxAnswerBytes) resolve();
  });
  response.once("close", resolve);
  response.once("end", resolve);
  response.on("error", resolve);
  await promise;
  clearTimeout(timer);
}

/**
 * Resolves a name by DNS itself. The host's resolver library has few threads, and a silent name server would occupy
 * them.
 */
async function byDns(hostname: string, signal: AbortSignal): Promise<readonly string[]> {
  // https://www.rfc-editor.org/rfc/rfc6761#section-6.3: name servers do not know this name.
  if (hostname === "localhost" || hostname.endsWith(".localhost")) return ["127.0.0.1", "::1"];
  const resolver = new Resolver({ timeout: 2000, tries: 2 });
  const cancel = (): void => resolver.cancel();
  signal.addEventListener("abort", cancel, { once: true });
  try {
    const [v4, v6] = await Promise.allSettled([resolver.resolve4(hostname), resolver.resolve6(hostname)]);
    const found = [v4, v6].flatMap((result) => (result.status === "fulfilled" ? result.value : []));
    if (found.length === 0 && v4.status === "rejected") {
      const { code } = v4.reason as NodeJS.ErrnoException;
      throw new Error(`cannot resolve ${hostname}: ${code ?? String(v4.reason)}`);
    }
    return found;
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}
