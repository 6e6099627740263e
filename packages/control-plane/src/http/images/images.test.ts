import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Held } from "#testing/held.ts";
import { startAfterCrash, startForTest, type Json, type TestControlPlane } from "#testing/start-for-test.ts";

const run = (...commands: string[]) => ({ type: "run", args: { commands } });
const file = (path: string, text: string) => ({
  type: "add_file",
  args: { path, content: Buffer.from(text).toString("base64"), encoding: "base64" },
});
const imageOf = (...steps: object[]) => ({ base: "base", steps });
const noteImage = imageOf(file("/note", "built"), run("echo one; echo two >&2"));
const events = { headers: { accept: "text/event-stream" } };

/** The frames of an event stream. */
async function framesOf(response: Response): Promise<{ event: string; data: Json }[]> {
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  const frames = (await response.text()).split("\n\n").filter((frame) => frame !== "" && !frame.startsWith(":"));
  return frames.map((frame) => {
    const [, event = "", data = ""] = /^event: (\S+)\ndata: (.*)$/.exec(frame) ?? assert.fail(frame);
    return { event, data: JSON.parse(data) };
  });
}

const note = async (world: TestControlPlane, id: string) =>
  (await world.call("GET", `/api/sandboxes/${id}/files?path=/note`)).text();

test("a sandbox is created from an image's steps, with a log, and the builder stays invisible", async () => {
  await using world = await startForTest();
  const response = await world.call("POST", "/api/sandboxes", { image: noteImage, envs: { A: "1" } }, events);
  assert.equal(response.status, 200);
  const frames = await framesOf(response);
  const logs = frames.slice(0, -1);
  assert.ok(logs.every(({ event }) => event === "build_log"));
  assert.deepEqual(logs[0]?.data, { step: 1, type: "add_file", message: "step 1 of 2: add_file /note" });
  const said = logs.map(({ data }) => data.message);
  assert.ok(said.includes("one") && said.includes("two"), said.join("\n"));
  const { event, data: sandbox } = frames.at(-1) ?? assert.fail();
  assert.deepEqual([event, sandbox.status, sandbox.restoredFrom], ["result", "running", "memory"]);
  assert.equal(await note(world, sandbox.sandboxID), "built");
  const { envs, from } = world.worker.started.at(-1) ?? assert.fail();
  assert.deepEqual(envs, { A: "1" });
  assert.equal(from.kind === "snapshot" && from.identity, "new");

  const builder = world.worker.started[0]?.id ?? "";
  assert.equal((await world.call("GET", `/api/sandboxes/${builder}`)).status, 404);
  assert.deepEqual(world.worker.live, [sandbox.sandboxID]);
  const [, listed] = await world.ask("GET", "/api/sandboxes?status=all");
  assert.equal(listed.length, 1);
  assert.deepEqual((await world.ask("GET", "/api/checkpoints"))[1], []);
});

test("the same steps are built once, and a second create reports the cache hit", async () => {
  await using world = await startForTest();
  const [status] = await world.ask("POST", "/api/sandboxes", { image: noteImage });
  assert.equal(status, 201);
  const before = world.worker.started.length;
  const other = { ...noteImage, builderMemoryMB: 2048, name: "whatever" };
  const frames = await framesOf(await world.call("POST", "/api/sandboxes", { image: other }, events));
  assert.deepEqual(
    frames.map(({ event, data }) => [event, data.type ?? data.status]),
    [
      ["build_log", "cache_hit"],
      ["result", "running"],
    ],
  );
  assert.equal(world.worker.started.length, before + 1);
  const [, images] = await world.ask("GET", "/api/images");
  const contentHash = createHash("sha256").update(JSON.stringify(noteImage)).digest("hex");
  assert.deepEqual(
    images.map(({ contentHash: hash, name, status: state }: Json) => [hash, name, state]),
    [[contentHash, "", "ready"]],
  );
});

test("builds of the same steps at once are one build, and all hear of it", async () => {
  await using world = await startForTest();
  using held = new Held();
  world.worker.onExec = held.here;
  const creates = Array.from({ length: 4 }, () => world.call("POST", "/api/sandboxes", { image: noteImage }, events));
  await held.reached;
  // Each answer has begun, so every create has joined the build.
  const responses = await Promise.all(creates);
  held.release();
  for (const frames of await Promise.all(responses.map(framesOf))) {
    assert.equal(frames[0]?.data.message, "step 1 of 2: add_file /note");
    assert.equal(frames.at(-1)?.event, "result");
  }
  assert.equal(world.worker.started.length, 1 + 4);
});

test("a failed step ends the build with its output and leaves nothing", async () => {
  await using world = await startForTest();
  const image = imageOf(run("true"), run("echo the reason >&2; exit 3"), run("true"));
  const frames = await framesOf(await world.call("POST", "/api/sandboxes", { image }, events));
  const { event, data } = frames.at(-1) ?? assert.fail();
  assert.equal(event, "error");
  assert.match(data.error, /^step 2 \(run\) failed: exit code 3\n[^]*the reason$/);
  const [status, { error }] = await world.ask("POST", "/api/sandboxes", { image });
  assert.deepEqual([status, error], [400, data.error]);
  assert.deepEqual([world.worker.live, world.worker.host.snapshots.size], [[], 0]);
  assert.deepEqual((await world.ask("GET", "/api/images"))[1], []);
});

test("an image that cannot be captured fails and can be built again", async () => {
  await using world = await startForTest();
  world.worker.onCapture = () => {
    throw new SandboxError("unavailable", "the disk is full");
  };
  const [status, { error }] = await world.ask("POST", "/api/sandboxes", { image: noteImage });
  assert.deepEqual([status, error], [503, "the disk is full"]);
  assert.deepEqual(world.worker.live, []);
  world.worker.onCapture = () => {};
  assert.equal((await world.ask("POST", "/api/sandboxes", { image: noteImage }))[0], 201);
});

test("an image built with more memory is captured with the memory that its sandboxes have", async () => {
  await using world = await startForTest();
  const image = { ...noteImage, builderMemoryMB: 4096 };
  const [, sandbox] = await world.ask("POST", "/api/sandboxes", { image });
  assert.deepEqual([sandbox.memoryMB, sandbox.restoredFrom], [1024, "memory"]);
  assert.deepEqual(
    world.worker.started.map(({ memoryMib }) => memoryMib),
    [4096, 1024, 1024],
  );
  assert.equal(await note(world, sandbox.sandboxID), "built");
  assert.equal(world.worker.host.snapshots.size, 1);
});

for (const [image, message] of [
  [{ steps: [] }, "image.base: Invalid input: expected string, received undefined"],
  [{ base: "nope", steps: [] }, 'template "nope" not found: this server has base, default, minimal'],
  [
    imageOf({ type: "docker", args: {} }),
    "image.steps.0.type: Invalid discriminator value. Expected 'apt_install' | 'pip_install' | 'run' | 'env' | 'workdir' | 'add_file' | 'add_dir'",
  ],
  [
    imageOf({ type: "run", args: {} }),
    "image.steps.0.args.commands: Invalid input: expected array, received undefined",
  ],
  [
    imageOf({ type: "env", args: { vars: { "A-B": "1" } } }),
    "env: a name must have only letters, digits and _ and not begin with a digit",
  ],
  [
    imageOf({ type: "env", args: { vars: { A: "1\n2" } } }),
    "env: a value must be one line, and not have both \" and '",
  ],
] as const) {
  test(`an image ${JSON.stringify(image)} is refused`, async () => {
    await using world = await startForTest();
    const [status, { error }] = await world.ask("POST", "/api/sandboxes", { image });
    assert.deepEqual([status === 400 || status === 404, error], [true, message]);
    assert.deepEqual(world.worker.started, []);
  });
}

test("a named image is built, found, used and deleted, and its sandboxes run on", async () => {
  await using world = await startForTest();
  const response = await world.call("POST", "/api/snapshots", { name: "my image", image: noteImage }, events);
  const frames = await framesOf(response);
  assert.ok(frames.length > 2);
  const { event, data: made } = frames.at(-1) ?? assert.fail();
  assert.deepEqual([event, made.name, made.status, made.orgId], ["result", "my image", "ready", "org-default"]);
  assert.deepEqual(made.manifest, noteImage);
  assert.match(made.checkpointId, /^[0-9a-f-]{36}$/);
  const path = "/api/snapshots/my%20image";
  assert.deepEqual((await world.ask("GET", path))[1], made);
  assert.deepEqual((await world.ask("GET", "/api/snapshots"))[1], [made]);

  const [status, sandbox] = await world.ask("POST", "/api/sandboxes", { snapshot: "my image", memoryMB: 1024 });
  assert.deepEqual([status, sandbox.fromCheckpointId], [201, made.checkpointId]);
  assert.equal(await note(world, sandbox.sandboxID), "built");
  const [taken, { error }] = await world.ask("POST", "/api/snapshots", { name: "my image", image: noteImage });
  assert.deepEqual([taken, error], [409, "snapshot name already exists"]);

  assert.equal((await world.call("DELETE", path)).status, 204);
  assert.equal(world.worker.host.snapshots.size, 0);
  assert.deepEqual(await world.ask("DELETE", path), [
    404,
    { error: "snapshot not found", code: "not_found", details: { resource: "snapshot", id: "my image" } },
  ]);
  assert.equal((await world.ask("POST", "/api/sandboxes", { snapshot: "my image" }))[0], 404);
  assert.equal(await note(world, sandbox.sandboxID), "built");
});

test("two names of the same steps share one build, which stays until the last name is deleted", async () => {
  await using world = await startForTest();
  const name = (text: string) => world.ask("POST", "/api/snapshots", { name: text, image: noteImage });
  const [[first], [second]] = [await name("a"), await name("b")];
  assert.deepEqual([first, second, world.worker.started.length], [201, 201, 1]);
  assert.equal(world.worker.host.snapshots.size, 1);
  await world.call("DELETE", "/api/snapshots/a");
  assert.equal((await world.ask("POST", "/api/sandboxes", { snapshot: "b" }))[0], 201);
  await world.call("DELETE", "/api/snapshots/b");
  assert.equal(world.worker.host.snapshots.size, 0);
  assert.deepEqual((await world.ask("GET", "/api/images"))[1], []);
});

test("a name is taken at once, and its status can be polled until it is ready or failed", async () => {
  await using world = await startForTest();
  using held = new Held();
  world.worker.onExec = held.here;
  const [status, building] = await world.ask("POST", "/api/snapshots?async=1", { name: "soon", image: noteImage });
  assert.deepEqual([status, building.status, building.checkpointId], [202, "building", ""]);
  await held.reached;
  assert.equal((await world.ask("GET", "/api/snapshots/soon"))[1].status, "building");
  const creating = world.ask("POST", "/api/sandboxes", { snapshot: "soon" });
  held.release();
  assert.equal((await creating)[0], 201);
  await eventually("it is ready", async () => (await world.ask("GET", "/api/snapshots/soon"))[1].status === "ready");

  world.worker.onExec = () => {};
  const broken = { name: "broken", image: imageOf(run("exit 1")) };
  assert.equal((await world.ask("POST", "/api/snapshots?async=1", broken))[0], 202);
  await eventually("it has failed", async () => {
    return (await world.ask("GET", "/api/snapshots/broken"))[1].status === "failed";
  });
  const [refused, { error }] = await world.ask("POST", "/api/sandboxes", { snapshot: "broken" });
  assert.equal(refused, 400);
  assert.match(error, /^snapshot is not ready: it failed: step 1 \(run\) failed: exit code 1/);
  assert.equal((await world.ask("POST", "/api/snapshots", { name: "broken", image: noteImage }))[0], 201);
});

for (const [body, message] of [
  [{ image: noteImage }, "name is required"],
  [{ name: "", image: noteImage }, "name is required"],
  [{ name: "x" }, "image is required"],
] as const) {
  test(`a named image ${Object.keys(body).join()} is refused: ${message}`, async () => {
    await using world = await startForTest();
    const [status, { error }] = await world.ask("POST", "/api/snapshots", body);
    assert.deepEqual([status, error], [400, message]);
    assert.deepEqual((await world.ask("GET", "/api/snapshots"))[1], []);
  });
}

test("a build whose client disconnects completes and serves the next create", async () => {
  await using world = await startForTest();
  using held = new Held();
  world.worker.onExec = held.here;
  const caller = new AbortController();
  const gone = world.call("POST", "/api/snapshots", { name: "mine", image: noteImage }, { signal: caller.signal });
  gone.catch(() => {});
  await held.reached;
  caller.abort();
  held.release();
  await eventually("it is ready", async () => (await world.ask("GET", "/api/snapshots/mine"))[1].status === "ready");
  assert.deepEqual(world.worker.live, []);
});

test("patches of a named image apply to its own sandboxes only", async () => {
  await using world = await startForTest();
  for (const name of ["a", "b"]) await world.ask("POST", "/api/snapshots", { name, image: noteImage });
  const [status, { patch }] = await world.ask("POST", "/api/snapshots/a/patches", { script: "exit 9" });
  assert.deepEqual([status, patch.sequence], [201, 1]);
  assert.equal((await world.ask("GET", "/api/images/a/patches"))[1].length, 1);
  assert.deepEqual((await world.ask("GET", "/api/snapshots/b/patches"))[1], []);
  const create = async (name: string) => (await world.ask("POST", "/api/sandboxes", { snapshot: name }))[1].patchError;
  assert.match(await create("a"), /^patch 1 exited with 9/);
  assert.equal(await create("b"), undefined);
  assert.equal((await world.call("DELETE", `/api/snapshots/a/patches/${patch.id}`)).status, 204);
  assert.equal(await create("a"), undefined);
  assert.equal((await world.ask("GET", "/api/snapshots/c/patches"))[0], 404);
});

test("a published image can be forked by every organization", async () => {
  await using world = await startForTest();
  const [, made] = await world.ask("POST", "/api/snapshots", { name: "a", image: noteImage });
  assert.equal((await world.ask("POST", "/api/snapshots/a/publish"))[0], 200);
  const [status] = await world.ask("POST", `/api/sandboxes/from-checkpoint/${made.checkpointId}`, {});
  assert.equal(status, 201);
  assert.equal((await world.ask("POST", "/api/images/a/unpublish"))[0], 200);
});

test("a prune removes unnamed images that nothing uses, and a dry run only names them", async () => {
  await using world = await startForTest();
  await world.ask("POST", "/api/snapshots", { name: "named", image: noteImage });
  const [, { sandboxID }] = await world.ask("POST", "/api/sandboxes", { image: imageOf(run("echo used")) });
  const [, other] = await world.ask("POST", "/api/sandboxes", { image: imageOf(run("echo unused")) });
  await world.call("DELETE", `/api/sandboxes/${other.sandboxID}`);
  const commandsOf = ({ manifest }: Json): string => manifest.steps[0].args.commands[0];
  const prune = async (body: object) => {
    const [status, { removed, sizeBytes, dryRun, error }] = await world.ask("POST", "/api/images/prune", body);
    return status === 200 ? { images: removed.map(commandsOf), sizeBytes, dryRun } : error;
  };
  const [, images] = await world.ask("GET", "/api/images");
  const bytes = new Map<string, number>(images.map((image: Json) => [image.id, image.sizeBytes]));
  // The named image shares the snapshot of an unnamed one, which therefore stays.
  assert.ok(bytes.size === 4 && [...bytes.values()].every((size) => size > 0), JSON.stringify([...bytes]));

  assert.deepEqual(await prune({ unusedForSeconds: 3600 }), { images: [], sizeBytes: 0, dryRun: false });
  await eventually(
    "a millisecond has passed",
    async () => (await prune({ unusedForSeconds: 0, dryRun: true })).images.length === 1,
  );
  const planned = await prune({ unusedForSeconds: 0, dryRun: true });
  assert.deepEqual(planned.images, ["echo unused"]);
  assert.ok(planned.sizeBytes > 0);
  assert.equal((await world.ask("GET", "/api/images"))[1].length, 4);
  assert.deepEqual(await prune({ unusedForSeconds: 0 }), { ...planned, dryRun: false });
  assert.equal((await world.ask("GET", "/api/images"))[1].length, 3);
  assert.equal(world.worker.host.snapshots.size, 2);

  assert.equal((await world.ask("GET", `/api/sandboxes/${sandboxID}`))[1].status, "running");
  await world.call("DELETE", `/api/sandboxes/${sandboxID}`);
  assert.deepEqual((await prune({ unusedForSeconds: 0 })).images, ["echo used"]);
  assert.match(await prune({}), /^unusedForSeconds: /);
});

test("a server killed during a build leaves neither machine nor image", async () => {
  await using first = await startForTest();
  using held = new Held();
  first.worker.onExec = held.here;
  await first.ask("POST", "/api/snapshots?async=1", { name: "never", image: noteImage });
  await held.reached;
  await using second = await startAfterCrash(first);
  assert.deepEqual([second.worker.live, second.worker.host.snapshots.size], [[], 0]);
  const [, image] = await second.ask("GET", "/api/snapshots/never");
  assert.deepEqual([image.status, image.error], ["failed", "the server exited while the image was being built"]);
  assert.equal((await second.ask("POST", "/api/snapshots", { name: "never", image: noteImage }))[0], 201);
});

test("a server that shuts down during a build undoes it", async () => {
  await using world = await startForTest();
  using held = new Held();
  world.worker.onExec = async () => {
    await held.here();
  };
  await world.ask("POST", "/api/snapshots?async=1", { name: "never", image: noteImage });
  await held.reached;
  const ended = world.plane[Symbol.asyncDispose]();
  held.release();
  await ended;
  assert.deepEqual([world.worker.live, world.worker.host.snapshots.size], [[], 0]);
});

test("an image with megabytes of files is accepted, and one over the limit is refused", async () => {
  await using world = await startForTest();
  const large = imageOf(file("/large", "x".repeat(4 * 2 ** 20)));
  assert.equal((await world.ask("POST", "/api/sandboxes", { image: large }))[0], 201);
  const [status, { error }] = await world.ask("POST", "/api/sandboxes", "x".repeat(33 * 2 ** 20));
  assert.equal(status, 400);
  assert.equal(error, "the request body is larger than 32 MiB: upload files to .../files instead");
});
