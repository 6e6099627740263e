import { Sandbox } from "@opencomputer/sdk";
import type { OurServer } from "./server.ts";

export type { Sandbox } from "@opencomputer/sdk";

/** The parts of the last start that the server reported, in milliseconds. */
export type Spans = Readonly<Record<string, number>>;

export interface Client {
  /** Creates a sandbox through the published client. */
  create(request?: { readonly memoryMB?: number }): Promise<Sandbox>;
  fork(checkpointId: string): Promise<Sandbox>;
  connect(id: string): Promise<Sandbox>;
  /** Sends a request that the published client has no method for. @throws when the reply is an error */
  fetch(method: string, path: string, body?: unknown): Promise<Response>;
  /** The server's timings of the last start. */
  readonly spans: Spans;
}

/** Reads the header `server-timing`, which the published client hides. */
export interface TimingObserver extends Disposable {
  readonly last: Spans;
}

/** Observes every reply that this process receives until it is disposed. */
export function observeTimings(): TimingObserver {
  const fetchAsItIs = globalThis.fetch;
  let last = "";
  globalThis.fetch = async (...args) => {
    const response = await fetchAsItIs(...args);
    last = response.headers.get("server-timing") ?? last;
    return response;
  };
  return {
    get last() {
      return parseTiming(last);
    },
    [Symbol.dispose]() {
      globalThis.fetch = fetchAsItIs;
    },
  };
}

export function clientOf({ url, apiKey }: OurServer, image: string, timings: TimingObserver): Client {
  const api = { apiUrl: url, apiKey };
  return {
    create: async (request) => await Sandbox.create({ ...api, template: image, ...request }),
    connect: async (id) => await Sandbox.connect(id, api),
    fork: async (checkpointId) => await Sandbox.createFromCheckpoint(checkpointId, api),
    async fetch(method, path, body) {
      const response = await fetch(`${url}${path}`, {
        method,
        headers: { "X-API-Key": apiKey, "Content-Type": "application/json" },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
      return response;
    },
    get spans() {
      return timings.last;
    },
  };
}

function parseTiming(header: string): Spans {
  return Object.fromEntries(
    [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name = "", milliseconds]) => [name, Number(milliseconds)]),
  );
}
