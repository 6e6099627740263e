import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, request as httpRequest } from "node:http";
import { text } from "node:stream/consumers";
import { after, before, suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { type FleetWorld, startFleetWorld } from "./fleet-world.ts";

suite("a server and two workers", () => {
  let world: FleetWorld;
  const log: string[] = [];
  /** Two sandboxes on each worker. */
  const sandboxes: { readonly id: string; readonly workerId: string }[] = [];

  before(async () => {
    world = await startFleetWorld({ workers: 2, onLog: (line) => log.push(line) });
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
  });

  const on = (workerId: string): string => {
    const found = sandboxes.find((each) => each.workerId === workerId);
    return found?.id ?? assert.fail(`no sandbox on ${workerId}`);
  };
  const run = async (id: string, cmd: string): Promise<{ status: number; stdout: string; error: string }> => {
    const { status, reply } = await world.call("POST", `/sandboxes/${id}/exec/run`, { cmd });
    return { status, stdout: reply.stdout ?? "", error: reply.error ?? "" };
  };

  test("sandboxes spread over the workers, and each works", async () => {
    const created = await Promise.all(
      Array.from({ length: 4 }, () => world.call("POST", "/sandboxes", { templateID: "minimal", timeout: 0 })),
    );
    for (const { status, reply } of created) {
      assert.equal(status, 201, JSON.stringify(reply));
      sandboxes.push({ id: reply.sandboxID, workerId: reply.workerID });
    }
    const perWorker = Object.values(Object.groupBy(sandboxes, ({ workerId }) => workerId));
    assert.deepEqual(
      perWorker.map((each) => each?.length),
      [2, 2],
    );
    for (const { id } of sandboxes) assert.equal((await run(id, "echo $((6 * 7))")).stdout, "42\n");
    const report = await world.report();
    assert.deepEqual(
      report.map((worker) => worker.sandboxes),
      [2, 2],
    );
  });

  test("a large file passes through the server unchanged in both directions", async () => {
    const id = on((await world.report())[0]!.id);
    const bytes = randomBytes(30_000_001);
    const path = `/sandboxes/${id}/files?path=/tmp/fleet-${id}`;
    assert.equal((await world.call("PUT", path, bytes)).status, 204);
    const response = await fetch(`${world.url}/api${path}`, { headers: { "x-api-key": world.apiKey } });
    const back = Buffer.from(await response.arrayBuffer());
    const hash = (content: Uint8Array): string => createHash("sha256").update(content).digest("hex");
    assert.equal(hash(back), hash(bytes));
    assert.equal((await run(id, `sha256sum < /tmp/fleet-${id}; rm /tmp/fleet-${id}`)).stdout, `${hash(bytes)}  -\n`);
  });

  test("a preview reaches a server in a sandbox on either worker", async () => {
    const server = createServer((request, response) => response.end(`${request.method} ${request.url}`));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = server.address();
    const port = typeof address === "object" && address !== null ? address.port : assert.fail("no port");
    for (const { id } of sandboxes) {
      const request = httpRequest(new URL("/hello", world.url), { headers: { host: `${id}-p${port}.localhost` } });
      request.end();
      const [response] = (await once(request, "response")) as [import("node:http").IncomingMessage];
      assert.equal(await text(response), "GET /hello");
    }
    server.close();
  });

  test("a cordoned worker gets no new sandboxes, and its own keep running", async () => {
    const [first, second] = await world.report();
    await world.cordon(first!.id, true);
    const { reply } = await world.call("POST", "/sandboxes", { templateID: "minimal" });
    assert.equal(reply.workerID, second!.id);
    const listed = await world.call("GET", "/workers");
    assert.equal(listed.status, 200, JSON.stringify(listed.reply));
    const listedWorkers = listed.reply as { id: string; state: string; cordoned: boolean }[];
    assert.deepEqual(
      new Map(listedWorkers.map(({ id, state, cordoned }) => [id, `${state} ${cordoned}`])),
      new Map([first!, second!].map(({ id }) => [id, `up ${id === first!.id}`])),
    );
    const { verdicts } = await world.explain(reply.sandboxID);
    assert.deepEqual(
      verdicts.filter(({ score }) => score === undefined),
      [{ workerId: first!.id, reason: "it is cordoned" }],
    );
    assert.equal((await run(on(first!.id), "echo on")).stdout, "on\n");
    await world.call("DELETE", `/sandboxes/${reply.sandboxID}`);
    await world.cordon(first!.id, false);
  });

  test("calls to the sandboxes of a lost worker are refused with a reason, and work again when it is back", async () => {
    const names = new Map(log.flatMap((line) => workerOf(line)));
    const workerId = names.get("worker-0") ?? assert.fail(log.join("\n"));
    const id = on(workerId);
    const other = sandboxes.find((each) => each.workerId !== workerId)?.id ?? assert.fail("no other worker");
    assert.equal((await run(id, "echo kept > note")).status, 200);
    await world.killWorker(0);
    await world.untilUp(1);
    const refused = await run(id, "true");
    assert.equal(refused.status, 503);
    assert.match(refused.error, new RegExp(`worker ${workerId} has not answered since`));
    assert.equal((await world.call("GET", `/sandboxes/${id}`)).reply.status, "running");
    assert.equal((await run(other, "echo on")).stdout, "on\n");
    const elsewhere = await world.call("POST", "/sandboxes", { templateID: "minimal" });
    assert.notEqual(elsewhere.reply.workerID, workerId);
    await world.call("DELETE", `/sandboxes/${elsewhere.reply.sandboxID}`);

    await world.startWorker(0);
    await world.untilUp(2);
    // A fake machine ends with its worker; its disks are booted by the next call.
    assert.equal((await run(id, "cat note")).stdout, "kept\n");
  });

  test("a restart of the fleet's server leaves sandboxes running", async () => {
    await world.killServer();
    await world.startServer();
    await world.untilUp(2);
    for (const { id } of sandboxes) {
      assert.equal((await run(id, "echo again")).stdout, "again\n", log.filter((line) => line.includes(id)).join("\n"));
      assert.equal((await world.call("GET", `/sandboxes/${id}`)).reply.status, "running");
    }
  });

  test("a deleted sandbox is removed from its worker, and the end of a machine is recorded", async () => {
    const [first, second] = sandboxes;
    assert.equal((await world.call("DELETE", `/sandboxes/${first!.id}`)).status, 204);
    assert.equal(
      (await world.report()).reduce((sum, worker) => sum + worker.sandboxes, 0),
      3,
    );
    await run(second!.id, "kill -9 $PPID");
    await eventually("the end of a machine is recorded", async () => {
      const { reply } = await world.call("GET", `/sandboxes/${second!.id}`);
      return reply.status === "error";
    });
  });
});

/** The name that a worker gives itself in its log. */
function workerOf(line: string): [string, string][] {
  const match = /^(worker-\d+) .*"worker":"(wk-[0-9a-f]+)"/.exec(line);
  return match === null ? [] : [[match[1]!, match[2]!]];
}
