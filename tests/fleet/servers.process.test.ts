import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import type { MemberReport } from "@opensandbox/control-plane/fleet.ts";
import type { DatabaseServer } from "../../packages/control-plane/src/database/database-server.ts";
import { Held } from "../../packages/control-plane/src/testing/held.ts";
import { PostgresForTest, withoutPostgres } from "../../packages/control-plane/src/testing/postgres-for-test.ts";
import { callFleet } from "../../packages/server/src/fleet/fleet-client.ts";
import { type FleetCredentials, makeCredentials, tokenOf } from "../../packages/server/src/fleet/fleet-token.ts";
import { endServer, type SpawnedServer, spawnServerOn } from "../e2e/spawn-server.ts";
import { type Json, type Node, startNode } from "./rows-world.ts";

// Server processes on one PostgreSQL. Their workers are behind real connections and keep their machines in a list.

const key = "key-of-the-test";
const never = new AbortController().signal;
const patience = { withinMs: 120_000, everyMs: 200 };

interface Server extends SpawnedServer {
  readonly fleetUrl: string;
}

interface Answer {
  readonly status: number;
  readonly reply: Json;
}

suite("several servers on one database", { skip: withoutPostgres }, () => {
  const stack = new AsyncDisposableStack();
  const nodes: Node[] = [];
  let directory: string;
  let database: DatabaseServer;
  let postgres: PostgresForTest;
  let credentials: FleetCredentials;
  let one: Server;
  let two: Server;
  /** A sandbox with an idle timeout of a second, in which a command of the second server runs. */
  let busy: string;
  let ran: Promise<Answer>;

  before(async () => {
    postgres = stack.use(await PostgresForTest.start());
    database = await postgres.createDatabase();
    directory = await mkdtemp(join(tmpdir(), "osb-servers-"));
    stack.defer(() => rm(directory, { recursive: true, force: true }));
    credentials = await makeCredentials();
    const options = { credentials, objectStore: undefined, stored: new Map(), pingMs: 2000, leaseSeconds: undefined };
    for (const index of [0, 1]) nodes.push(await startNode(stack, { index, ...options }));
    one = await startServer("one");
    for (const { cable } of nodes) {
      await callFleet(
        { url: one.fleetUrl, credentials, method: "POST", path: "/join", body: { url: cable.url } },
        never,
      );
    }
    two = await startServer("two");
    for (const server of [one, two]) await untilUp(server);
    busy = await create(one, 1);
    // Exceeds the idle timeout and the slack of its deadline, 11 s together, during the other tests.
    ran = ask(two, "POST", `/${busy}/exec/run`, { cmd: "sleep 13; echo done" });
  });
  after(() => stack.disposeAsync());
  afterEach(() => {
    for (const { worker } of nodes) {
      worker.onHibernate = () => {};
      worker.onStart = () => {};
      worker.onDone = () => {};
    }
  });

  async function startServer(name: string): Promise<Server> {
    const data = join(directory, name);
    await mkdir(data, { recursive: true, mode: 0o711 });
    let fleetUrl = "";
    const server = await spawnServerOn(data, {
      stays: true,
      env: {
        OPENSANDBOX_MODE: "server",
        OPENSANDBOX_DATABASE_URL: database.url,
        OPENSANDBOX_API_KEY: key,
        OPENSANDBOX_FLEET_TOKEN: tokenOf(credentials),
        OPENSANDBOX_FLEET_HOST: "127.0.0.1",
        OPENSANDBOX_FLEET_PORT: "0",
      },
      onLog: (line) => {
        fleetUrl ||= /"workers can join","url":"([^"]+)"/.exec(line)?.[1] ?? "";
        if (!line.startsWith("{") || line.includes('"level":"error"')) console.error(name, line);
      },
    });
    stack.use(server);
    await eventually("workers can join", () => fleetUrl !== "", patience);
    return { ...server, fleetUrl };
  }

  async function report({ fleetUrl: url }: Server): Promise<MemberReport[]> {
    return (await callFleet({ url, credentials, method: "GET", path: "/workers" }, never)) as MemberReport[];
  }

  async function untilUp(server: Server): Promise<void> {
    const isFresh = ({ state, seenAt = "" }: MemberReport): boolean =>
      state === "up" && Date.now() - Date.parse(seenAt) < 10_000;
    await eventually(
      "the workers are asked, and the server knows their answers",
      async () => (await report(server)).filter(isFresh).length === nodes.length,
      patience,
    );
  }

  async function ask(
    server: Server,
    method: string,
    path: string,
    body?: object | string,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Answer> {
    const response = await fetch(`${server.url}/api/sandboxes${path}`, {
      method,
      headers: { "x-api-key": key, ...headers },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      signal: AbortSignal.timeout(120_000),
    });
    const text = await response.text();
    return { status: response.status, reply: /^[{[]/.test(text) ? JSON.parse(text) : text };
  }

  async function create(server: Server, timeout = 0): Promise<string> {
    const { status, reply } = await ask(server, "POST", "", { templateID: "minimal", timeout });
    assert.equal(status, 201, JSON.stringify(reply));
    return reply.sandboxID;
  }

  async function write(server: Server, id: string, text: string): Promise<void> {
    const { status, reply } = await ask(server, "PUT", `/${id}/files?path=/note`, text);
    assert.ok(status < 300, JSON.stringify(reply));
  }

  async function read(server: Server, id: string): Promise<string> {
    const { status, reply } = await ask(server, "GET", `/${id}/files?path=/note`);
    assert.equal(status, 200, JSON.stringify(reply));
    return reply;
  }

  const statusOf = async (server: Server, id: string): Promise<string> =>
    (await ask(server, "GET", `/${id}`)).reply.status;
  /** Starts of machines of a sandbox, on any worker. */
  const starts = (id: string): number =>
    nodes.flatMap(({ worker }) => worker.started).filter((each) => each.id === id).length;
  const machines = (id: string): number =>
    nodes.flatMap(({ worker }) => worker.live).filter((each) => each === id).length;

  test("a sandbox is used, hibernated, woken and deleted through either server", async () => {
    const id = await create(two);
    await write(one, id, "kept");
    assert.equal((await ask(one, "POST", `/${id}/hibernate`)).status, 200);
    assert.equal(machines(id), 0);
    assert.equal(await read(two, id), "kept");
    assert.equal((await ask(two, "DELETE", `/${id}`)).status, 204);
    assert.equal(await statusOf(one, id), "stopped");
    assert.equal(machines(id), 0);
  });

  test("creates with one idempotency key through both servers make one sandbox", async () => {
    const body = { templateID: "minimal", timeout: 0 };
    const before = nodes.flatMap(({ worker }) => worker.started).length;
    const answers = await Promise.all(
      [one, two, one, two, one, two].map((server) => ask(server, "POST", "", body, { "idempotency-key": "same" })),
    );
    const ids = new Set(answers.map(({ reply }) => reply.sandboxID as string));
    assert.equal(ids.size, 1, JSON.stringify(answers));
    assert.equal(nodes.flatMap(({ worker }) => worker.started).length, before + 1);
    for (const id of ids) await ask(two, "DELETE", `/${id}`);
  });

  test("calls through one server during a hibernation through the other wake the sandbox once, after it", async () => {
    const id = await create(one);
    await write(two, id, "kept");
    using held = new Held();
    for (const { worker } of nodes) worker.onHibernate = held.here;
    const hibernating = ask(one, "POST", `/${id}/hibernate`);
    await held.reached;
    const before = starts(id);
    const calls = Promise.all([read(two, id), read(two, id), read(one, id), ask(two, "POST", `/${id}/wake`, {})]);
    held.release();
    const [, , , woken] = await calls;
    assert.equal(woken.status, 200, JSON.stringify(woken.reply));
    assert.equal((await hibernating).status, 200);
    assert.equal(starts(id), before + 1);
    assert.equal(machines(id), 1);
    assert.equal(await read(two, id), "kept");
    await ask(one, "DELETE", `/${id}`);
  });

  test("operations through both servers at once on one sandbox leave one machine or none, and no row in between", async () => {
    const id = await create(one);
    await write(one, id, "kept");
    const verbs = ["hibernate", "wake", "power-cycle", "hibernate", "wake", "hibernate"] as const;
    const answers = await Promise.all(
      verbs.flatMap((verb) => [one, two].map((server) => ask(server, "POST", `/${id}/${verb}`, {}))),
    );
    const unexpected = answers.filter(({ status }) => ![200, 202, 204, 400, 409].includes(status));
    assert.deepEqual(unexpected, []);
    assert.equal(await read(two, id), "kept");
    assert.equal(machines(id), 1);
    assert.equal(await statusOf(one, id), "running");
    await ask(one, "DELETE", `/${id}`);
  });

  test("a worker that is cordoned through one server gets nothing from the other", async () => {
    const [first] = nodes;
    const cordon = (server: Server, cordoned: boolean): Promise<unknown> =>
      callFleet(
        { url: server.fleetUrl, credentials, method: "POST", path: `/workers/${first!.id}/cordon`, body: { cordoned } },
        never,
      );
    await cordon(two, true);
    await eventually(
      "the other server knows",
      async () => (await report(one)).some(({ id, cordoned }) => id === first!.id && cordoned),
      patience,
    );
    const { reply } = await ask(one, "POST", "", { templateID: "minimal" });
    assert.notEqual(reply.workerID, first!.id);
    const explain = async (server: Server): Promise<Json> =>
      await callFleet(
        { url: server.fleetUrl, credentials, method: "GET", path: `/placements/${reply.sandboxID}` },
        never,
      );
    const [chosen, present] = [await explain(one), await explain(two)];
    assert.deepEqual([chosen.workerId, chosen.isPresent], [reply.workerID, undefined]);
    assert.equal(present.isPresent, true, "the other server says what it would choose now");
    for (const { verdicts } of [chosen, present]) {
      const refused = (verdicts as { workerId: string; reason: string }[]).find(
        ({ workerId }) => workerId === first!.id,
      );
      assert.equal(refused?.reason, "it is cordoned");
    }
    await cordon(one, false);
    await ask(one, "DELETE", `/${reply.sandboxID}`);
  });

  test("when the server on duty is killed, the other ends what it had begun, and watches its machines", async () => {
    const kept = await create(one);
    await write(one, kept, "kept");
    const watched = await create(one);
    const asleep = await create(one);
    assert.equal((await ask(one, "POST", `/${asleep}/hibernate`)).status, 200);
    using hibernation = new Held();
    using start = new Held();
    for (const { worker } of nodes) {
      worker.onHibernate = hibernation.here;
      worker.onStart = ({ id }) => (id === asleep ? undefined : start.here());
    }
    const body = { templateID: "minimal", timeout: 0 };
    const lost = [
      ask(one, "POST", `/${kept}/hibernate`),
      ask(one, "POST", "", body, { "idempotency-key": "lost" }),
    ].map((request) => request.catch(() => undefined));
    await Promise.all([hibernation.reached, start.reached]);
    await endServer(one.process, "SIGKILL");
    await Promise.all(lost);

    // Sandboxes on which the killed server did not operate are free at once.
    assert.equal((await ask(two, "POST", `/${asleep}/wake`, {})).status, 200);
    for (const { worker } of nodes) {
      worker.onHibernate = () => {};
      worker.onStart = () => {};
    }
    const late = read(two, kept);
    const again = ask(two, "POST", "", body, { "idempotency-key": "lost" });
    hibernation.release();
    start.release();
    assert.equal(await late, "kept");
    assert.equal(machines(kept), 1);
    const { status, reply } = await again;
    assert.ok([200, 201].includes(status), JSON.stringify(reply));
    assert.equal(machines(reply.sandboxID), 1);
    const { reply: all } = await ask(two, "GET", "");
    assert.equal((all as Json[]).filter(({ sandboxID }) => sandboxID === reply.sandboxID).length, 1);

    await untilUp(two);
    const node = nodes.find(({ worker }) => worker.live.includes(watched as never));
    node?.worker.crash(watched as never, "killed by the test");
    await eventually("its end is noticed", async () => (await statusOf(two, watched)) === "error", patience);
    one = await startServer("one");
    await untilUp(one);
    assert.equal(await read(one, kept), "kept");
  });

  test("when the database restarts, both servers serve again, and machines run on", async () => {
    const id = await create(one);
    await write(two, id, "kept");
    await postgres.restart();
    for (const server of [one, two]) {
      await eventually(
        "it serves again",
        async () => (await ask(server, "GET", `/${id}/files?path=/note`)).reply === "kept",
        patience,
      );
    }
    assert.equal(starts(id), 1);
    assert.equal((await ask(two, "POST", `/${id}/hibernate`)).status, 200);
    assert.equal(await read(one, id), "kept");
  });

  test("a sandbox that was used through one server was not idle for the other, and sleeps when both have left it", async () => {
    const { reply } = await ran;
    assert.equal(reply.stdout, "done\n", JSON.stringify(reply));
    assert.equal(starts(busy), 1, "it ran on");
    await eventually("it is hibernated", async () => (await statusOf(one, busy)) === "hibernated", patience);
  });
});
