import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startControlPlane } from "@opensandbox/control-plane";
import { openFleet } from "@opensandbox/control-plane/fleet.ts";
import { randomHex, type SandboxId } from "@opensandbox/wire/ids.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import type { HostStatus } from "@opensandbox/wire/worker/status.ts";
import { TestHost } from "../../packages/control-plane/src/testing/test-host.ts";
import { TestWorker } from "../../packages/control-plane/src/testing/test-worker.ts";
import { callFleet } from "../../packages/server/src/fleet/fleet-client.ts";
import { type FleetCredentials, makeCredentials } from "../../packages/server/src/fleet/fleet-token.ts";
import { serveWorker } from "../../packages/worker/src/serve/serve-worker.ts";
import { type Cable, startCable } from "./cable.ts";

const never = new AbortController().signal;
const key = "key-of-the-test";

// oxlint-disable-next-line typescript/no-explicit-any -- a test checks the fields that it reads
export type Json = any;

/** A worker of {@link startRowsWorld}. */
export interface Node {
  readonly id: string;
  readonly worker: TestWorker;
  readonly cable: Cable;
  /** What the worker reports about its host. */
  host: HostStatus;
}

/** A control plane in this process, and workers behind real connections whose machines are only entries of a list. */
export interface RowsWorld extends AsyncDisposable {
  readonly nodes: readonly Node[];
  /** What the object store has. */
  readonly stored: TestHost["stored"];
  /** Asks the server as an operator does. */
  fleet(method: "GET" | "POST", path: string, body?: object): Promise<Json>;
  ask(method: string, path: string, body?: object): Promise<Json>;
  /** Sends text. */
  put(path: string, text: string): Promise<{ readonly status: number }>;
  create(): Promise<{ readonly id: SandboxId; readonly node: Node }>;
  status(id: string): Promise<string>;
  untilUp(count: number): Promise<void>;
}

/** Long enough for a heartbeat. */
export async function settled(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 300));
}

export interface RowsWorldOptions {
  /** The object store that the workers report. Absent: they have none. */
  readonly objectStore?: string;
  /** How soon a stalled connection counts as broken. A connection that is cut counts at once. */
  readonly pingMs?: number;
  /** The lease that the workers report. Absent: they have none. */
  readonly leaseSeconds?: number;
  /** When the sandboxes of a silent worker with a lease continue elsewhere. Default: never by themselves. */
  readonly lostAfterMs?: number;
}

export async function startRowsWorld(
  count: number,
  { objectStore, pingMs = 200, leaseSeconds, lostAfterMs = 0 }: RowsWorldOptions = {},
): Promise<RowsWorld> {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "osb-fleet-rows-"));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  const credentials = await makeCredentials();
  const { secret, ...tls } = credentials;
  const stored: TestHost["stored"] = new Map();
  const nodes: Node[] = [];
  for (let index = 0; index < count; index += 1)
    nodes.push(await startNode(undo, { index, credentials, objectStore, stored, pingMs, leaseSeconds }));
  let fleetUrl = "";
  const plane = undo.use(
    await startControlPlane({
      worker: openFleet({
        ...{
          tls,
          token: secret,
          version: "test",
          listen: { host: "127.0.0.1", port: 0 },
          heartbeatMs: 50,
          uploadsMs: 50,
          sweepsMs: 300,
          lostAfterMs,
          fenceMs: lostAfterMs === 0 ? 15_000 : 500,
        },
        tuning: { pingMs, connectMs: 5 * pingMs, answerMs: 5000, retryMs: 50 },
      }),
      database: join(directory, "control-plane.db"),
      templateFilesDirectory: join(directory, "template-files"),
      listen: { host: "127.0.0.1", port: 0 },
      apiKey: key,
      ...{ region: "local", sandboxDomain: "sandbox.test", customDomains: { proof: "none" } },
      isWorkerAlive: () => true,
      defaults: { vcpus: 1, memoryMib: 1024, workspaceMib: 20_480, idleTimeoutSeconds: 300 },
      ready: () => ({ ready: true }),
      atEnd: () => "leave",
      log: (_level, message, fields) => {
        if (message === "workers can join") fleetUrl = (fields as { readonly url: string }).url;
      },
      tuning: { farewellMs: 50 },
    }),
  );
  const fleet = async (method: "GET" | "POST", path: string, body?: object): Promise<Json> =>
    await callFleet({ url: fleetUrl, credentials, method, path, ...(body === undefined ? {} : { body }) }, never);
  for (const { cable } of nodes) await fleet("POST", "/join", { url: cable.url });
  const untilUp = async (wanted: number): Promise<void> => {
    const up = async (): Promise<number> =>
      ((await fleet("GET", "/workers")) as { state: string }[]).filter(({ state }) => state === "up").length;
    await eventually(`${wanted} workers answer`, async () => (await up()) === wanted, { everyMs: 20 });
  };
  await untilUp(count);
  const ask: RowsWorld["ask"] = async (method, path, body) => {
    const response = await fetch(`${plane.url}/api${path}`, {
      method,
      headers: { "x-api-key": key },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.startsWith("application/json") === true;
    const reply: Json = text === "" ? undefined : isJson ? JSON.parse(text) : text;
    return { status: response.status, reply, retryAfter: response.headers.get("retry-after") };
  };
  const owned = undo.move();
  return {
    nodes,
    stored,
    fleet,
    ask,
    put: async (path, text) => {
      const headers = { "x-api-key": key };
      return await fetch(`${plane.url}/api${path}`, { method: "PUT", headers, body: text });
    },
    untilUp,
    async create() {
      const { status, reply } = await ask("POST", "/sandboxes", { templateID: "minimal" });
      assert.equal(status, 201, JSON.stringify(reply));
      const node = nodes.find(({ id }) => id === reply.workerID) ?? assert.fail(`no worker ${reply.workerID}`);
      return { id: reply.sandboxID, node };
    },
    status: async (id) => (await ask("GET", `/sandboxes/${id}`)).reply.status,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

export interface StartNode {
  readonly index: number;
  readonly credentials: FleetCredentials;
  readonly objectStore: string | undefined;
  readonly stored: TestHost["stored"];
  readonly pingMs: number;
  readonly leaseSeconds: number | undefined;
}

/** Serves a {@link TestWorker} to the servers of a fleet. The stack ends it. */
export async function startNode(
  undo: AsyncDisposableStack,
  { index, credentials: { secret, ...tls }, objectStore, stored, pingMs, leaseSeconds }: StartNode,
): Promise<Node> {
  const worker = new TestWorker(`local-${index}`, new TestHost(new Map(), stored));
  if (objectStore !== undefined) worker.description = { ...worker.description, objectStore };
  undo.defer(() => worker.killAll());
  if (leaseSeconds !== undefined) worker.description = { ...worker.description, leaseSeconds };
  const id = `wk-${index}`;
  const state = {
    host: {
      ...{ freeMemoryMib: 16_000, totalMemoryMib: 16_000, freeDiskShare: 0.5, cpuModel: "test" },
      readyMachines: { wanted: 0, ready: 0, templates: [] },
    } as HostStatus,
  };
  const endpoint = undo.use(
    await serveWorker({
      ...{ worker, id, instance: randomHex(8), version: "test", tls, token: secret },
      status: () => Promise.resolve(state.host),
      listen: { host: "127.0.0.1", port: 0 },
      log: () => {},
      tuning: { pingMs },
    }),
  );
  const cable = undo.use(await startCable(endpoint.url));
  return {
    id,
    worker,
    cable,
    get host() {
      return state.host;
    },
    set host(host) {
      state.host = host;
    },
  };
}
