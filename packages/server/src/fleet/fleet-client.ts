import { request } from "node:https";
import { text } from "node:stream/consumers";
import { errorFromWire, SandboxError } from "@opensandbox/wire/errors.ts";
import { nodeName } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import type { FleetCredentials } from "./fleet-token.ts";

export interface FleetCall {
  /** Where the server listens for its fleet. */
  readonly url: string;
  readonly credentials: FleetCredentials;
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly body?: object;
}

/** A server answers at once, except for a worker that joins: it connects to the worker first. */
const timeoutMs = 30_000;

/** Asks the server of the fleet. @throws the server's error, and `unavailable` when it does not answer */
export async function callFleet(
  { url, credentials: { secret, ...tls }, method, path, body }: FleetCall,
  signal: AbortSignal,
): Promise<unknown> {
  const until = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number; content: string }>();
  const headers = { authorization: `Bearer ${secret}`, "content-type": "application/json" };
  const call = request(
    new URL(path, url),
    { method, headers, ...tls, servername: nodeName, minVersion: "TLSv1.3", agent: false, signal: until },
    (response) => {
      text(response).then((content) => resolve({ status: response.statusCode ?? 0, content }), reject);
    },
  );
  call.on("error", reject);
  call.end(body === undefined ? undefined : JSON.stringify(body));
  const { status, content } = await promise.catch((cause: unknown) => {
    signal.throwIfAborted();
    const message = `the fleet's server at ${url} does not answer: ${(cause as Error).message}`;
    throw new SandboxError("unavailable", message, { cause });
  });
  const answer = parse(content, url);
  if (status === 200) return answer;
  throw errorFromWire(answer as Parameters<typeof errorFromWire>[0]);
}

function parse(content: string, url: string): unknown {
  try {
    return JSON.parse(content);
  } catch (cause) {
    throw new SandboxError("unavailable", `${url} is not the server of a fleet: its answer is not JSON`, { cause });
  }
}
