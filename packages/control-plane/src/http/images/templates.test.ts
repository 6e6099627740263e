import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { startForTest, type Json, type TestControlPlane } from "#testing/start-for-test.ts";

suite("templates", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  before(async () => {
    world = stack.use(await startForTest());
  });
  after(() => stack.disposeAsync());

  const run = (...commands: string[]): object => ({ type: "run", args: { commands } });
  const events = { headers: { accept: "text/event-stream" } };

  test("a template is built with its log, listed, used by both interfaces and deleted", async () => {
    const body = { name: "web", tags: ["v1", "default"], steps: [run("echo one", "echo two")], memoryMB: 2048 };
    const response = await world.call("POST", "/api/templates", body, events);
    const text = await response.text();
    assert.equal(response.status, 200);
    for (const line of ["one", "two", "the template is ready"]) assert.ok(text.includes(`"message":"${line}"`), text);
    const [, list] = await world.ask("GET", "/api/templates");
    const [{ id, builds, ...rest }] = list;
    assert.deepEqual([list.length, rest.name, rest.public], [1, "web", false]);
    assert.deepEqual([builds[0].status, builds[0].tags], ["ready", ["default", "v1"]]);
    const [, build] = await world.ask("GET", `/api/templates/web/builds/${builds[0].id}?offset=1`);
    assert.ok(build.log.some(({ step, message }: Json) => step === "1" && message === "two"));
    for (const templateID of ["web", "web:v1", id]) {
      const [status, sandbox] = await world.ask("POST", "/api/sandboxes", { templateID });
      assert.deepEqual([status, sandbox.memoryMB, sandbox.restoredFrom], [201, 2048, "memory"], templateID);
    }
    assert.equal((await world.ask("POST", "/v2/sandboxes", { templateID: "web" }))[0], 201);
    assert.equal((await world.ask("POST", "/api/sandboxes", { templateID: "web:v2" }))[0], 404);
    assert.equal((await world.ask("POST", "/api/templates/web/publish"))[1].public, true);
    assert.equal((await world.ask("POST", `/api/templates/${id}/unpublish`))[1].public, false);
    assert.equal((await world.call("DELETE", "/api/templates/web")).status, 204);
    assert.equal((await world.ask("GET", "/api/templates/web"))[0], 404);
    assert.equal(world.worker.host.snapshots.size, 0);
  });

  test("a build that fails says which step and why, and its template keeps the build before it", async () => {
    assert.equal((await world.ask("POST", "/api/templates", { name: "kept", steps: [run("true")] }))[0], 201);
    const broken = { name: "kept", steps: [run("true"), run("echo why; exit 5")] };
    const [status, { error }] = await world.ask("POST", "/api/templates", broken);
    assert.deepEqual([status, error], [400, "step 2 failed: exit code 5\nwhy"]);
    const [, { builds }] = await world.ask("GET", "/api/templates/kept");
    assert.deepEqual(
      builds.map((build: Json) => build.status),
      ["failed", "ready"],
    );
    assert.equal((await world.ask("POST", "/api/sandboxes", { templateID: "kept" }))[0], 201);
  });

  test("a template is built of a Dockerfile without waiting, and another one of it", async () => {
    const dockerfile = "FROM base\nRUN echo built";
    const [status] = await world.ask("POST", "/api/templates?async=1", { name: "file", dockerfile, public: true });
    assert.equal(status, 202);
    const ready = await eventually("it is ready", async () => {
      const [, template] = await world.ask("GET", "/api/templates/file");
      return template.builds[0].status === "ready" && template;
    });
    assert.equal(ready.public, true);
    assert.equal((await world.ask("POST", "/api/templates", { name: "second", template: "file" }))[0], 201);
  });

  for (const [body, status, message] of [
    [{ name: "x", image: "a", template: "b" }, 400, /give one of image, template and dockerfile/],
    [{ name: "x", image: "nope" }, 404, /template "nope" not found/],
    [{ name: "x", template: "nope" }, 404, /template 'nope' not found/],
    [{ name: "x", dockerfile: "FROM base\nCOPY . ." }, 501, /COPY/],
    [{ name: "No" }, 400, /lower-case letters/],
    [{}, 400, /name is required/],
  ] as const) {
    test(`a template ${JSON.stringify(body)} is refused`, async () => {
      const [code, { error }] = await world.ask("POST", "/api/templates", body);
      assert.equal(code, status, error);
      assert.match(error, message);
    });
  }
});
