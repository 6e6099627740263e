import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Held } from "#testing/held.ts";
import { startAfterCrash, startForTest, type Json, type TestControlPlane } from "#testing/start-for-test.ts";

suite("templates by the interface of E2B", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  before(async () => {
    world = stack.use(await startForTest());
  });
  after(() => stack.disposeAsync());

  interface Requested {
    readonly templateID: string;
    readonly buildID: string;
  }

  async function request(name: string, body: object = {}): Promise<Requested> {
    const [status, reply] = await world.ask("POST", "/v3/templates", { name, ...body });
    assert.equal(status, 202, JSON.stringify(reply));
    return reply;
  }

  function statusOf({ templateID, buildID }: Requested, offset = 0): Promise<[number, Json]> {
    return world.ask("GET", `/templates/${templateID}/builds/${buildID}/status?logsOffset=${offset}`);
  }

  async function build(requested: Requested, body: object): Promise<Json> {
    const { templateID, buildID } = requested;
    const [status, reply] = await world.ask("POST", `/v2/templates/${templateID}/builds/${buildID}`, body);
    assert.equal(status, 202, JSON.stringify(reply));
    return await eventually("the build ends", async () => {
      const [, now] = await statusOf(requested);
      return ["ready", "error"].includes(now.status) && now;
    });
  }

  const run = (command: string): object => ({ type: "RUN", args: [command] });

  test("a build has a status at once and a log that is read in parts; sandboxes start from the result", async () => {
    using held = new Held();
    const requested = await request("first", { tags: ["v1"], cpuCount: 2, memoryMB: 2048 });
    assert.equal((await statusOf(requested))[1].status, "waiting");
    world.worker.onExec = held.here;
    const path = `/v2/templates/${requested.templateID}/builds/${requested.buildID}`;
    assert.equal((await world.ask("POST", path, { fromImage: "base", steps: [run("echo printed")] }))[0], 202);
    assert.equal((await statusOf(requested))[1].status, "building");
    assert.equal((await world.ask("POST", path, { fromImage: "base" }))[0], 409);
    await held.reached;
    held.release();
    world.worker.onExec = () => {};
    const ready = await eventually("it is ready", async () => {
      const [, now] = await statusOf(requested);
      return now.status === "ready" && now;
    });
    const messages = ready.logEntries.map(({ message }: Json) => message);
    assert.ok(messages.includes("printed"), messages.join("\n"));
    assert.deepEqual((await statusOf(requested, messages.length))[1].logEntries, []);
    const log = `/templates/${requested.templateID}/builds/${requested.buildID}/logs`;
    assert.deepEqual((await world.ask("GET", log))[1].logs, ready.logEntries);
    const [, found] = await world.ask("GET", `${log}?search=printed&direction=backward&limit=1`);
    assert.deepEqual(
      found.logs.map(({ message }: Json) => message),
      ["printed"],
    );
    for (const templateID of ["first:v1", `team/first:v1`, `${requested.templateID}:v1`]) {
      const [status, sandbox] = await world.ask("POST", "/v2/sandboxes", { templateID });
      assert.deepEqual([status, sandbox.templateID], [201, templateID]);
      const detail = (await world.ask("GET", `/sandboxes/${sandbox.sandboxID}`))[1];
      assert.deepEqual([detail.cpuCount, detail.memoryMB], [2, 2048]);
    }
    const [missing, { message }] = await world.ask("POST", "/v2/sandboxes", { templateID: "first" });
    assert.equal(missing, 404);
    assert.match(message, /no ready build with the tag 'default'/);
  });

  test("a failed step ends the build with its number and its output, and a failed base with its name", async () => {
    const failed = await build(await request("broken"), {
      fromImage: "base",
      steps: [run("true"), run("echo why; exit 3")],
    });
    assert.deepEqual([failed.status, failed.reason.step], ["error", "2"]);
    assert.match(failed.reason.message, /exit code 3\nwhy$/);
    const ended = await build(await request("ended"), {
      ...{ fromImage: "base", startCmd: "echo cannot start; exit 4", readyCmd: "false" },
    });
    assert.deepEqual([ended.status, ended.reason.step], ["error", "finalize"]);
    assert.match(ended.reason.message, /^the start command ended with exit code 4\ncannot start/);
    assert.deepEqual(world.worker.live.length, (await world.ask("GET", "/v2/sandboxes"))[1].length);
  });

  test("the machine is captured when the ready command succeeds, with the start command running", async (t) => {
    const marker = `/tmp/osb-template-${process.pid}-${Date.now()}`;
    t.after(() => world.worker.killAll());
    const ready = await build(await request("serving"), {
      ...{ fromImage: "base", startCmd: `sleep 1; echo started >${marker}; exec sleep 600` },
      readyCmd: `grep -q started ${marker} && rm ${marker}`,
    });
    assert.equal(ready.status, "ready", JSON.stringify(ready));
  });

  test("a template starts from a template; tags move, and a build without a tag is removed", async () => {
    const first = await request("tagged", { tags: ["a", "b"] });
    assert.equal((await build(first, { fromImage: "base" })).status, "ready");
    const snapshots = world.worker.host.snapshots.size;
    const second = await request("tagged:b");
    assert.equal(second.templateID, first.templateID);
    assert.equal((await build(second, { fromTemplate: "tagged:a", steps: [run("true")] })).status, "ready");
    const tags = async () => {
      const [, list] = await world.ask("GET", `/templates/${first.templateID}/tags`);
      return Object.fromEntries(list.map(({ tag, buildID }: Json) => [tag, buildID]));
    };
    assert.deepEqual(await tags(), { a: first.buildID, b: second.buildID });
    assert.equal(world.worker.host.snapshots.size, snapshots + 1);
    const [status, assigned] = await world.ask("POST", "/templates/tags", { target: "tagged:b", tags: ["a", "c"] });
    assert.deepEqual([status, assigned], [201, { buildID: second.buildID, tags: ["a", "c"] }]);
    assert.deepEqual(await tags(), { a: second.buildID, b: second.buildID, c: second.buildID });
    assert.equal(world.worker.host.snapshots.size, snapshots);
    assert.equal((await world.ask("DELETE", "/templates/tags", { name: "tagged", tags: ["a", "b"] }))[0], 204);
    assert.deepEqual(await tags(), { c: second.buildID });
    for (const target of [":a", "tagged:", "unknown:a", "tagged:none"]) {
      const [code] = await world.ask("POST", "/templates/tags", { target, tags: ["x"] });
      assert.equal(code, /^:|:$/.test(target) ? 400 : 404, target);
    }
    assert.equal((await world.ask("DELETE", "/templates/tagged"))[0], 204);
    assert.equal(world.worker.host.snapshots.size, snapshots - 1);
    assert.equal((await world.ask("DELETE", "/templates/tagged"))[0], 404);
  });

  test("a template is found by its alias, listed and published", async () => {
    const requested = await request("listed");
    assert.equal((await build(requested, { fromTemplate: "base" })).status, "ready");
    const { templateID } = requested;
    assert.deepEqual((await world.ask("GET", "/templates/aliases/listed"))[1], { templateID, public: false });
    assert.deepEqual((await world.ask("PATCH", "/v2/templates/listed", { public: true }))[1], { names: ["listed"] });
    const [, list] = await world.ask("GET", "/v2/templates");
    const found = list.find((entry: Json) => entry.templateID === templateID);
    assert.deepEqual([found.names, found.public, found.buildID], [["listed"], true, requested.buildID]);
    assert.deepEqual((await world.ask("GET", `/templates/${templateID}`))[1], found);
  });

  test("files are uploaded by a signed URL without a key, and only there", async () => {
    const { templateID } = await request("files");
    const link = async (hash: string): Promise<Json> =>
      (await world.ask("GET", `/templates/${templateID}/files/${hash}`))[1];
    const { present, url } = await link("abc123");
    assert.equal(present, false);
    assert.equal((await fetch(url, { method: "PUT", body: "archive" })).status, 200);
    assert.equal((await link("abc123")).present, true);
    for (const other of [url.replace("abc123", "abc124"), url.replace(templateID, `${templateID}0`), `${url}0`]) {
      assert.equal((await fetch(other, { method: "PUT", body: "x" })).status, 403);
    }
    assert.equal((await world.ask("GET", `/templates/${templateID}/files/..%2f..%2fetc`))[0], 400);
  });

  for (const [body, message] of [
    [{ name: "Upper" }, /must be 1 to 128 lower-case letters/],
    [{ name: "a", tags: ["no spaces"] }, /the tag 'no spaces' must be/],
    [{ name: "a", memoryMB: 1 }, /whole numbers/],
    [{}, /a template's name is required/],
  ] as const) {
    test(`a build ${JSON.stringify(body)} is refused`, async () => {
      const [status, reply] = await world.ask("POST", "/v3/templates", body);
      assert.equal(status, 400);
      assert.match(reply.message, message);
    });
  }

  test("a definition that cannot be built is refused before it begins", async () => {
    const { templateID, buildID } = await request("refused");
    for (const [body, code] of [
      [{}, 400],
      [{ fromImage: "no-such-image" }, 404],
      [{ fromTemplate: "no-such-template" }, 404],
      [{ fromImage: "base", fromImageRegistry: { type: "registry" } }, 501],
      [{ fromImage: "base", steps: [{ type: "SHELL", args: [] }] }, 400],
      [{ fromImage: "base", steps: [{ type: "COPY", args: ["a", "b"] }] }, 400],
    ] as const) {
      const [status] = await world.ask("POST", `/v2/templates/${templateID}/builds/${buildID}`, body);
      assert.equal(status, code, JSON.stringify(body));
    }
  });
});

test("a server killed during the build of a template leaves a failed build and no machine", async () => {
  await using first = await startForTest();
  using held = new Held();
  first.worker.onExec = held.here;
  const [, { templateID, buildID }] = await first.ask("POST", "/v3/templates", { name: "never" });
  const steps = [{ type: "RUN", args: ["true"] }];
  await first.ask("POST", `/v2/templates/${templateID}/builds/${buildID}`, { fromImage: "base", steps });
  await held.reached;
  await using second = await startAfterCrash(first);
  const [, build] = await second.ask("GET", `/templates/${templateID}/builds/${buildID}/status`);
  assert.deepEqual(
    [build.status, build.reason.message],
    ["error", "the server exited while the template was being built"],
  );
  assert.deepEqual([second.worker.live, second.worker.host.snapshots.size], [[], 0]);
});
