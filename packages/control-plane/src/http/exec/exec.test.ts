import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { startForTest, type TestOptions } from "#testing/start-for-test.ts";

async function setUp(timing: NonNullable<TestOptions["tuning"]>["timing"] = {}) {
  const world = await startForTest({ tuning: { timing } });
  const id = await world.create();
  const exec = async (body: object) => await world.ask("POST", `/api/sandboxes/${id}/exec/run`, body);
  const execAsync = async (body: object) => await world.ask("POST", `/api/sandboxes/${id}/exec/run-async`, body);
  const result = async (execId: string) => await world.ask("GET", `/api/sandboxes/${id}/exec/${execId}/result`);
  return { world, id, exec, execAsync, result, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() };
}

const large = 3_000_000;
// Bytes to be cut anywhere: three-byte characters, an invalid byte, and characters that JSON escapes.
const largeScript = `yes '€"\\' | head -c ${large}; printf '\\377' >&2; yes | head -c ${large} >&2`;
const largeOutput = {
  stdout: Buffer.from('€"\\\n'.repeat(large / 6))
    .subarray(0, large)
    .toString(),
  stderr: `\ufffd${"y\n".repeat(large / 2)}`,
};

/** Compares without printing a difference of millions of lines. */
function isLarge({ stdout, stderr }: { stdout: string; stderr: string }): boolean {
  return stdout === largeOutput.stdout && stderr === largeOutput.stderr;
}

suite("exec/run", () => {
  test("returns standard output, standard error and the exit code", async () => {
    await using given = await setUp();
    assert.deepEqual(await given.exec({ cmd: "echo out; echo err >&2; exit 3" }), [
      200,
      { exitCode: 3, stdout: "out\n", stderr: "err\n" },
    ]);
    assert.deepEqual(await given.exec({ cmd: "printf", args: ["%s", "a b"] }), [
      200,
      { exitCode: 0, stdout: "a b", stderr: "" },
    ]);
  });

  test("output of any size is exact, whether the answer starts early or late", async () => {
    await using given = await setUp();
    for (const timeout of [20, 0]) {
      const [status, reply] = await given.exec({ cmd: largeScript, timeout });
      assert.equal(status, 200);
      assert.equal(reply.exitCode, 0);
      assert.ok(isLarge(reply));
    }
  });

  test("the exit code is -1 after a timeout, which the last line of stderr reports, and after a signal", async () => {
    await using given = await setUp();
    const [, late] = await given.exec({ cmd: "echo begun >&2; exec sleep 100", timeout: 0.2 });
    assert.deepEqual(late, { exitCode: -1, stdout: "", stderr: "begun\n\nProcess timed out" });
    const [, killed] = await given.exec({ cmd: "kill -9 $$" });
    assert.equal(killed.exitCode, -1);
  });

  test("the command ends with its caller", async () => {
    await using given = await setUp();
    for (const timeout of [20, 0]) {
      const giveUp = new AbortController();
      const body = { cmd: "exec sleep 100", timeout };
      const asked = given.world.call("POST", `/api/sandboxes/${given.id}/exec/run`, body, { signal: giveUp.signal });
      const answered = asked.then((response) => response.text()).catch(() => undefined);
      await eventually("it runs", () => given.world.worker.running.size === 1);
      giveUp.abort();
      await answered;
      await eventually("it is killed", () => given.world.worker.running.size === 0);
    }
  });

  test("a long command is kept alive with spaces before its JSON", async () => {
    await using given = await setUp({ keepAliveMs: 20 });
    const response = await given.world.call("POST", `/api/sandboxes/${given.id}/exec/run`, {
      cmd: "sleep 0.3",
      timeout: 60,
    });
    const text = await response.text();
    assert.match(text, /^ {3,}\{/);
    assert.deepEqual(JSON.parse(text), { exitCode: 0, stdout: "", stderr: "" });
  });

  test("when the line to the guest breaks, no exit code is invented", async () => {
    await using given = await setUp();
    const answer = given.exec({ cmd: "exec sleep 100", timeout: 20 });
    await eventually("it runs", () => given.world.worker.running.size === 1);
    await given.world.call("POST", `/api/sandboxes/${given.id}/hibernate`);
    given.world.worker.loseLines(given.id);
    const [status, { code }] = await answer;
    assert.deepEqual([status, code], [503, "unavailable"]);
    for (const child of given.world.worker.running) child.kill("SIGKILL");
  });

  test("a command that cannot start is an error", async () => {
    await using given = await setUp();
    assert.equal((await given.exec({}))[0], 400);
    assert.equal((await given.exec({ cmd: "/no/such/program", args: ["x"] }))[0], 404);
  });
});

suite("exec/run-async", () => {
  test("a quick command is answered at once, without a handle", async () => {
    await using given = await setUp();
    assert.deepEqual(await given.execAsync({ cmd: "echo quick" }), [
      200,
      { exitCode: 0, stdout: "quick\n", stderr: "" },
    ]);
  });

  test("a slow command gets a handle that can be polled, attached to and listed", async () => {
    await using given = await setUp({ inlineHoldMs: 20, resultHoldMs: 20 });
    const [status, { execId, running }] = await given.execAsync({ cmd: "echo begun; sleep 0.3; echo done; exit 5" });
    assert.deepEqual([status, running], [202, true]);
    assert.deepEqual(await given.result(execId), [200, { running: true, stdout: "", stderr: "" }]);
    const [, sessions] = await given.world.ask("GET", `/api/sandboxes/${given.id}/exec`);
    assert.deepEqual(
      sessions.map((session: { sessionID: string }) => session.sessionID),
      [execId],
    );
    await eventually("it ends", async () => (await given.result(execId))[1].running === false);
    const expected = { running: false, exitCode: 5, stdout: "begun\ndone\n", stderr: "" };
    for (let times = 0; times < 2; times += 1) assert.deepEqual(await given.result(execId), [200, expected]);
  });

  test("output too large to hold gets a handle, and is exact", async () => {
    await using given = await setUp();
    const [status, { execId }] = await given.execAsync({ cmd: largeScript });
    assert.equal(status, 202);
    const reply = await eventually("the result of the command", async () => {
      const [, polled] = await given.result(execId);
      return polled.running ? undefined : polled;
    });
    assert.ok(isLarge(reply));
  });

  test("a command keeps running after its caller leaves", async () => {
    await using given = await setUp();
    const giveUp = new AbortController();
    const asked = given.world.call(
      "POST",
      `/api/sandboxes/${given.id}/exec/run-async`,
      { cmd: "exec sleep 100" },
      {
        signal: giveUp.signal,
      },
    );
    const answered = asked.catch(() => undefined);
    await eventually("it runs", () => given.world.worker.running.size === 1);
    giveUp.abort();
    await answered;
    await sleep(100);
    assert.equal(given.world.worker.running.size, 1);
    for (const child of given.world.worker.running) child.kill("SIGKILL");
  });

  test("an unknown handle, or one of another sandbox, is 404", async () => {
    await using given = await setUp({ inlineHoldMs: 1 });
    const [, { execId }] = await given.execAsync({ cmd: "sleep 0.2" });
    const other = await given.world.create();
    for (const path of [`${given.id}/exec/00000000`, `${other}/exec/${execId}`]) {
      const [status, { error }] = await given.world.ask("GET", `/api/sandboxes/${path}/result`);
      assert.equal(status, 404);
      assert.match(error, /exec not found/);
    }
    assert.equal((await given.world.ask("GET", `/api/sandboxes/sb-00000000/exec/${execId}/result`))[0], 404);
  });

  test("after hibernation a poll reports the wake, and then the result", async () => {
    await using given = await setUp({ inlineHoldMs: 1, resultHoldMs: 20 });
    const { world, id } = given;
    const [, { execId }] = await given.execAsync({ cmd: "sleep 0.2; echo kept" });
    assert.equal((await world.call("POST", `/api/sandboxes/${id}/hibernate`)).status, 200);
    const held = Promise.withResolvers<void>();
    world.worker.onStart = () => held.promise;
    assert.deepEqual(await given.result(execId), [200, { running: true, waking: true, stdout: "", stderr: "" }]);
    assert.equal((await given.result(execId))[1].waking, true);
    held.resolve();
    await eventually("it has the result", async () => {
      const [status, reply] = await given.result(execId);
      assert.equal(status, 200);
      if (reply.running) return false;
      assert.deepEqual(reply, { running: false, exitCode: 0, stdout: "kept\n", stderr: "" });
      return true;
    });
  });

  test("a wake that fails for now does not fail the poll", async () => {
    await using given = await setUp({ inlineHoldMs: 1 });
    const { world, id } = given;
    const [, { execId }] = await given.execAsync({ cmd: "sleep 0.2" });
    await world.call("POST", `/api/sandboxes/${id}/hibernate`);
    world.worker.onStart = () => {
      throw new SandboxError("no_capacity", "the host is full", { resource: "memory", needMib: 1024, freeMib: 0 });
    };
    assert.deepEqual(await given.result(execId), [200, { running: true, waking: true, stdout: "", stderr: "" }]);
  });

  test("a poll interrupted by a shutdown is answered with a request to poll again, and no later poll fails", async () => {
    await using given = await setUp({ inlineHoldMs: 1, resultHoldMs: 20_000 });
    const { world } = given;
    const [, { execId }] = await given.execAsync({ cmd: "exec sleep 100" });
    const asked = Promise.withResolvers<void>();
    const { sessions } = world.worker.guest(given.id);
    const wait = sessions.wait.bind(sessions);
    sessions.wait = (...call) => {
      asked.resolve();
      return wait(...call);
    };
    const polled = given.result(execId);
    await asked.promise;
    const ended = world.plane[Symbol.asyncDispose]();
    let answers = 0;
    for (let next: typeof polled | undefined = polled; next !== undefined; answers += 1) {
      assert.deepEqual(await next, [200, { running: true, waking: true, stdout: "", stderr: "" }]);
      next = given.result(execId);
      // At the end no client is connected.
      if ((await next.catch(() => undefined)) === undefined) next = undefined;
    }
    assert.ok(answers > 0);
    await ended;
  });

  test("a poll for a result in a deleted sandbox answers 410", async () => {
    await using given = await setUp({ inlineHoldMs: 1 });
    const [, { execId }] = await given.execAsync({ cmd: "sleep 0.2" });
    await given.world.call("DELETE", `/api/sandboxes/${given.id}`);
    assert.equal((await given.result(execId))[0], 410);
  });
});
