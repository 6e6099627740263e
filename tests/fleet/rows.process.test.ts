import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite, test } from "node:test";
import { startControlPlane } from "@opensandbox/control-plane";
import { openFleet } from "@opensandbox/control-plane/fleet.ts";
import { randomHex, type SandboxId } from "@opensandbox/wire/ids.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import type { HostStatus } from "@opensandbox/wire/worker/status.ts";
import { Held } from "../../packages/control-plane/src/testing/held.ts";
import { TestWorker } from "../../packages/control-plane/src/testing/test-worker.ts";
import { callFleet } from "../../packages/server/src/fleet/fleet-client.ts";
import { type FleetCredentials, makeCredentials } from "../../packages/server/src/fleet/fleet-token.ts";
import { serveWorker } from "../../packages/worker/src/serve/serve-worker.ts";
import { type Cable, startCable } from "./cable.ts";

const never = new AbortController().signal;
const key = "key-of-the-test";

// oxlint-disable-next-line typescript/no-explicit-any -- a test checks the fields that it reads
type Json = any;

interface Node {
  readonly worker: TestWorker;
  readonly cable: Cable;
  /** What the worker reports about its host. */
  host: HostStatus;
}

/** A control plane in this process, and workers behind real connections whose machines are only entries of a list. */
interface World extends AsyncDisposable {
  readonly nodes: readonly Node[];
  ask(method: string, path: string, body?: object): Promise<Json>;
  create(): Promise<{ readonly id: SandboxId; readonly node: Node }>;
  status(id: string): Promise<string>;
  untilUp(count: number): Promise<void>;
}

suite("rows and workers of a fleet", () => {
  test("a hibernated sandbox wakes on the worker with its snapshot, although another has more room", async () => {
    await using world = await startWorld(2);
    const { id, node } = await world.create();
    await world.ask("POST", `/sandboxes/${id}/hibernate`);
    assert.equal(node.worker.host.snapshots.size, 1);
    node.host = { ...node.host, freeMemoryMib: 2000 };
    const woken = await world.ask("POST", `/sandboxes/${id}/wake`, {});
    assert.equal(woken.status, 200);
    assert.deepEqual(node.worker.live, [id]);
    await eventually("the snapshot is removed", () => node.worker.host.snapshots.size === 0);
  });

  test("a checkpoint is forked on the worker with its snapshot", async () => {
    await using world = await startWorld(2);
    const { id, node } = await world.create();
    const { reply } = await world.ask("POST", `/sandboxes/${id}/checkpoints`, { name: "one" });
    node.host = { ...node.host, freeMemoryMib: 2000 };
    const fork = await world.ask("POST", `/sandboxes/from-checkpoint/${reply.id}`, {});
    assert.equal(fork.status, 201, JSON.stringify(fork.reply));
    assert.equal(node.worker.live.length, 2);
  });

  test("a worker without room is not asked, and a fleet without room answers 503 with Retry-After", async () => {
    await using world = await startWorld(2);
    const [small, large] = world.nodes;
    small!.host = { ...small!.host, freeMemoryMib: 100 };
    await settled();
    for (const _ of [1, 2, 3]) assert.equal((await world.create()).node, large);
    large!.host = { ...large!.host, freeDiskShare: 0.01 };
    await settled();
    const refused = await world.ask("POST", "/sandboxes", { templateID: "minimal" });
    assert.equal(refused.status, 503);
    assert.equal(refused.reply.code, "no_capacity");
    assert.match(refused.reply.error, /its disk is full/);
    assert.ok(Number(refused.retryAfter) > 0);
  });

  test("a hibernation whose answer is lost leaves a hibernated sandbox", async () => {
    await using world = await startWorld(1);
    const { id, node } = await world.create();
    using held = new Held();
    node.worker.onDone = async (step) => (step === "hibernate" ? await held.here() : undefined);
    const hibernating = world.ask("POST", `/sandboxes/${id}/hibernate`);
    await held.reached;
    node.cable.cut();
    assert.equal((await hibernating).status, 503);
    assert.notEqual(await world.status(id), "running");
    held.release();
    node.cable.mend();
    // The public status of both is hibernated; only the right row can be woken.
    const wake = (): Promise<Json> => world.ask("POST", `/sandboxes/${id}/wake`, {});
    await eventually("the row is right", async () => (await wake()).status === 200);
    assert.deepEqual(node.worker.live, [id]);
  });

  test("a hibernation that the worker gives up with its connection leaves a running sandbox", async () => {
    await using world = await startWorld(1);
    const { id, node } = await world.create();
    using held = new Held();
    node.worker.onHibernate = held.here;
    const hibernating = world.ask("POST", `/sandboxes/${id}/hibernate`);
    await held.reached;
    node.cable.cut();
    assert.equal((await hibernating).status, 503);
    await settled();
    held.release();
    node.cable.mend();
    await eventually("the row is right", async () => (await world.status(id)) === "running");
    assert.deepEqual(node.worker.live, [id]);
    assert.equal(node.worker.host.snapshots.size, 0);
  });

  test("sandboxes of a silent worker stay running in their rows, and calls to them are refused at once", async () => {
    await using world = await startWorld(2);
    const { id, node } = await world.create();
    node.cable.stall();
    await world.untilUp(1);
    const { status, reply } = await world.ask("POST", `/sandboxes/${id}/exec/run`, { cmd: "true" });
    assert.equal(status, 503);
    assert.match(reply.error, /has not answered since .*its sandboxes are kept/);
    assert.equal(await world.status(id), "running");
    assert.notEqual((await world.create()).node, node);
    node.cable.mend();
    await world.untilUp(2);
    assert.equal((await world.ask("POST", `/sandboxes/${id}/exec/run`, { cmd: "true" })).status, 200);
  });

  test("a machine that ended while its worker was silent is recorded when it is back", async () => {
    await using world = await startWorld(1);
    const { id, node } = await world.create();
    node.cable.cut();
    await world.untilUp(0);
    node.worker.host.machines.delete(id);
    node.cable.mend();
    await eventually("the row is right", async () => (await world.status(id)) === "error");
  });

  test("a machine of a sandbox that was deleted meanwhile is removed when its worker is back", async () => {
    await using world = await startWorld(1);
    const { id, node } = await world.create();
    using held = new Held();
    node.worker.onStop = held.here;
    const deleting = world.ask("DELETE", `/sandboxes/${id}`);
    await held.reached;
    node.cable.cut();
    assert.equal((await deleting).status, 503);
    node.worker.onStop = () => {};
    node.cable.mend();
    await world.untilUp(1);
    assert.equal((await world.ask("DELETE", `/sandboxes/${id}`)).status, 204);
    assert.deepEqual(node.worker.live, []);
  });
});

/** Long enough for a heartbeat. */
async function settled(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 300));
}

async function startWorld(count: number): Promise<World> {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "osb-fleet-rows-"));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  const credentials = await makeCredentials();
  const { secret, ...tls } = credentials;
  const nodes: (Node & { readonly id: string })[] = [];
  for (let index = 0; index < count; index += 1) nodes.push(await startNode(undo, { index, credentials }));
  let fleetUrl = "";
  const plane = undo.use(
    await startControlPlane({
      worker: openFleet({
        ...{ tls, token: secret, version: "test", listen: { host: "127.0.0.1", port: 0 }, heartbeatMs: 50 },
        tuning: { pingMs: 200, connectMs: 500, answerMs: 5000, retryMs: 50 },
      }),
      database: join(directory, "control-plane.db"),
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
  const ask: World["ask"] = async (method, path, body) => {
    const response = await fetch(`${plane.url}/api${path}`, {
      method,
      headers: { "x-api-key": key },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    const reply: Json = text === "" ? undefined : JSON.parse(text);
    return { status: response.status, reply, retryAfter: response.headers.get("retry-after") };
  };
  const owned = undo.move();
  return {
    nodes,
    ask,
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

async function startNode(
  undo: AsyncDisposableStack,
  { index, credentials: { secret, ...tls } }: { readonly index: number; readonly credentials: FleetCredentials },
): Promise<Node & { readonly id: string }> {
  const worker = new TestWorker(`local-${index}`);
  undo.defer(() => worker.killAll());
  const id = `wk-${index}`;
  const state = {
    host: {
      ...{ freeMemoryMib: 16_000, totalMemoryMib: 16_000, freeDiskShare: 0.5, cpuModel: "test" },
      readyMachines: { wanted: 0, ready: 0 },
    } as HostStatus,
  };
  const endpoint = undo.use(
    await serveWorker({
      ...{ worker, id, instance: randomHex(8), version: "test", tls, token: secret },
      status: () => Promise.resolve(state.host),
      listen: { host: "127.0.0.1", port: 0 },
      log: () => {},
      tuning: { pingMs: 200 },
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
