import { once } from "node:events";
import { createServer, type IncomingMessage, request as httpRequest, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What happens to one request. */
export type Fault =
  /** The server does not see it, and this status is the answer. */
  | { readonly kind: "status"; readonly status: number }
  /** The connection breaks before an answer. */
  | { readonly kind: "reset" }
  /** The connection breaks in the middle of the answer's body. */
  | { readonly kind: "cut answer" }
  /** The connection breaks in the middle of the request's body. */
  | { readonly kind: "cut request" }
  /** No answer comes. */
  | { readonly kind: "silence" };

export interface FaultyProxy extends AsyncDisposable {
  readonly url: string;
  /** The requests so far. */
  readonly requests: number;
  /** Faults of the next requests, one each. */
  inject(...faults: readonly Fault[]): void;
}

/** A proxy in front of an HTTP server at `target`. It keeps the name of the host, which signatures cover. */
export async function startFaultyProxy(target: string): Promise<FaultyProxy> {
  const faults: Fault[] = [];
  let requests = 0;
  const server = createServer((incoming, outgoing) => {
    requests += 1;
    const fault = faults.shift();
    switch (fault?.kind) {
      case "status":
        incoming.resume();
        outgoing.writeHead(fault.status).end();
        return;
      case "reset":
        incoming.socket.destroy();
        return;
      case "cut request":
        incoming.once("data", () => incoming.socket.destroy());
        return;
      case "silence":
        incoming.resume();
        return;
      case "cut answer":
      case undefined:
        forward(incoming, outgoing, { target, isCut: fault !== undefined });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get requests() {
      return requests;
    },
    inject: (...more) => void faults.push(...more),
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

function forward(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  { target, isCut }: { readonly target: string; readonly isCut: boolean },
): void {
  const { method, url, headers } = incoming;
  const call = httpRequest(new URL(url ?? "/", target), { method, headers, agent: false }, (reply) => {
    outgoing.writeHead(reply.statusCode ?? 500, reply.headers);
    if (!isCut) return void reply.pipe(outgoing);
    reply.once("data", (data: Buffer) => {
      outgoing.write(data.subarray(0, data.length / 2), () => outgoing.destroy());
      reply.destroy();
    });
  });
  call.on("error", () => outgoing.destroy());
  incoming.pipe(call);
}
