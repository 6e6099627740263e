import assert from "node:assert/strict";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import type { Choice, MemberReport } from "@opensandbox/control-plane/fleet.ts";
import { callFleet } from "../../packages/server/src/fleet/fleet-client.ts";
import { makeCredentials, tokenOf } from "../../packages/server/src/fleet/fleet-token.ts";
import { killProcessesOf } from "../../packages/worker/src/host/kill-by-path.ts";
import { endServer, type SpawnedServer, spawnServerOn } from "../e2e/spawn-server.ts";

const never = new AbortController().signal;

/** A server and its workers, each a process of its own, with the fake hypervisor. Disposing ends all of it. */
export interface FleetWorld extends AsyncDisposable {
  readonly url: string;
  readonly apiKey: string;
  readonly server: SpawnedServer;
  /** By index, from 0. */
  readonly workers: readonly SpawnedServer[];
  /** The environment of commands on the host of a worker. */
  workerEnvironment(index: number): Readonly<Record<string, string>>;
  report(): Promise<MemberReport[]>;
  cordon(workerId: string, cordoned: boolean): Promise<void>;
  explain(sandboxId: string): Promise<Choice>;
  /** Waits until this many workers answer the server. */
  untilUp(count: number): Promise<void>;
  /** Kills a worker as a crash does. Its machines run on. */
  killWorker(index: number): Promise<void>;
  /** Starts a worker on the data directory of one that was killed. */
  startWorker(index: number): Promise<void>;
  killServer(): Promise<void>;
  startServer(): Promise<void>;
  /** `fetch` of the REST interface, with JSON in both directions. */
  call(method: string, path: string, body?: unknown): Promise<{ readonly status: number; readonly reply: Json }>;
}

// oxlint-disable-next-line typescript/no-explicit-any -- a test checks the fields that it reads
type Json = any;

export interface FleetWorldOptions {
  readonly workers: number;
  readonly env?: Readonly<Record<string, string>>;
  /** For workers alone. */
  readonly workerEnv?: Readonly<Record<string, string>>;
  /** Where the nodes have their data. Default: a directory that is removed at the end. */
  readonly directory?: string;
  readonly onLog?: (line: string) => void;
}

export async function startFleetWorld({
  workers: count,
  env = {},
  workerEnv = {},
  directory: given,
  onLog,
}: FleetWorldOptions): Promise<FleetWorld> {
  await using undo = new AsyncDisposableStack();
  const directory = given ?? (await mkdtemp(join(tmpdir(), "osb-fleet-")));
  await chmod(directory, 0o711);
  if (given === undefined) undo.defer(() => rm(directory, { recursive: true, force: true }));
  // Machines outlive their workers.
  undo.defer(() => killProcessesOf(directory));
  const credentials = await makeCredentials();
  const fleetPort = await freePort();
  const fleetUrl = `https://127.0.0.1:${fleetPort}`;
  const common = {
    OPENSANDBOX_VM_BACKEND: "fake",
    OPENSANDBOX_ALLOW_FAKE: "1",
    OPENSANDBOX_FLEET_TOKEN: tokenOf(credentials),
    OPENSANDBOX_FLEET_HOST: "127.0.0.1",
    ...env,
  };
  const spawnNode = async (name: string, nodeEnv: Readonly<Record<string, string>>): Promise<SpawnedServer> => {
    const data = join(directory, name);
    await mkdir(data, { recursive: true, mode: 0o711 });
    const log = onLog ?? (() => {});
    return await spawnServerOn(data, {
      env: { ...common, ...nodeEnv },
      stays: true,
      onLog: (line) => log(`${name} ${line}`),
    });
  };
  const spawnControlPlane = (): Promise<SpawnedServer> =>
    spawnNode("server", {
      OPENSANDBOX_MODE: "server",
      OPENSANDBOX_FLEET_PORT: `${fleetPort}`,
    });
  const spawnWorker = (index: number): Promise<SpawnedServer> =>
    spawnNode(`worker-${index}`, {
      OPENSANDBOX_MODE: "worker",
      OPENSANDBOX_FLEET_PORT: "0",
      OPENSANDBOX_FLEET_URL: fleetUrl,
      ...workerEnv,
    });
  let server = await spawnControlPlane();
  undo.defer(async () => await server[Symbol.asyncDispose]());
  const workers: SpawnedServer[] = [];
  undo.defer(async () => void (await Promise.all(workers.map((worker) => worker[Symbol.asyncDispose]()))));
  for (let index = 0; index < count; index += 1) workers.push(await spawnWorker(index));
  const report = async (): Promise<MemberReport[]> =>
    (await callFleet({ url: fleetUrl, credentials, method: "GET", path: "/workers" }, never)) as MemberReport[];
  const untilUp = async (wanted: number): Promise<void> => {
    await eventually(
      `${wanted} workers answer`,
      async () => (await report()).filter(({ state }) => state === "up").length === wanted,
      { withinMs: 180_000, everyMs: 200 },
    );
  };
  const { apiKey } = server;
  await untilUp(count);
  const owned = undo.move();
  return {
    apiKey,
    get url() {
      return server.url;
    },
    get server() {
      return server;
    },
    workers,
    workerEnvironment: (index) => ({
      OPENSANDBOX_DATA_DIR: join(directory, `worker-${index}`),
      OPENSANDBOX_FLEET_URL: fleetUrl,
      OPENSANDBOX_FLEET_TOKEN: tokenOf(credentials),
    }),
    report,
    async cordon(workerId, cordoned) {
      const path = `/workers/${workerId}/cordon`;
      await callFleet({ url: fleetUrl, credentials, method: "POST", path, body: { cordoned } }, never);
    },
    async explain(sandboxId) {
      const path = `/placements/${sandboxId}`;
      return (await callFleet({ url: fleetUrl, credentials, method: "GET", path }, never)) as Choice;
    },
    untilUp,
    async killWorker(index) {
      await endServer(workers[index]?.process ?? assert.fail(`no worker ${index}`), "SIGKILL");
    },
    async startWorker(index) {
      workers[index] = await spawnWorker(index);
    },
    async killServer() {
      await endServer(server.process, "SIGKILL");
    },
    async startServer() {
      server = await spawnControlPlane();
    },
    async call(method, path, body) {
      const response = await fetch(`${server.url}/api${path}`, {
        method,
        headers: { "x-api-key": apiKey },
        ...(body === undefined ? {} : { body: body instanceof Uint8Array ? body : JSON.stringify(body) }),
      });
      const text = await response.text();
      return { status: response.status, reply: text.startsWith("{") || text.startsWith("[") ? JSON.parse(text) : text };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** A port that was free a moment ago, for a process that must come back on the same one. */
async function freePort(): Promise<number> {
  const probe = createServer();
  probe.listen(0, "127.0.0.1");
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  await once(probe, "close");
  return typeof address === "object" && address !== null ? address.port : assert.fail("no port");
}
