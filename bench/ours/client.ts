import { Sandbox } from "@opencomputer/sdk";
import type { OurServer } from "./server.ts";

export type { Sandbox } from "@opencomputer/sdk";

/** The parts of the last start that a server has told of, in milliseconds. */
export type Spans = Readonly<Record<string, number>>;

export interface Client {
  /** By the published client. */
  create(request?: { readonly memoryMB?: number }): Promise<Sandbox>;
  fork(checkpointId: string): Promise<Sandbox>;
  connect(id: string): Promise<Sandbox>;
  /** What a published client has no method for. @throws for an answer that is none */
  fetch(method: string, path: string, body?: unknown): Promise<Response>;
  /** What the server said of where the time went in the last start that was asked of it. */
  readonly spans: Spans;
}

/** Sees the header in which the server tells where the time went: the published client does not tell of it. */
export interface TimingObserver extends Disposable {
  readonly last: Spans;
}

/** Looks at every answer of this process until it is disposed. */
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
