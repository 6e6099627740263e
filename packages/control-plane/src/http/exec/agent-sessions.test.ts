import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { startForTest } from "#testing/start-for-test.ts";

async function setUp() {
  const clock = new ManualClock();
  const world = await startForTest({ tuning: { clock } });
  world.worker.now = () => clock.now();
  const id = parseSandboxId(await world.create());
  const at = `/api/sandboxes/${id}/agent`;
  const sessions = world.worker.sessions(id);
  return {
    ...{ world, clock, id, at, sessions },
    start: async (body: object = {}): Promise<string> => {
      const [status, reply] = await world.ask("POST", at, body);
      assert.equal(status, 201, JSON.stringify(reply));
      return reply.sessionID;
    },
    /** The messages that the program received: it echoes each. */
    received: async (sessionId: string, lines: number): Promise<unknown[]> => {
      let text = "";
      const decoder = new TextDecoder();
      const attached = sessions.get(sessionId).attach({}, AbortSignal.timeout(10_000));
      for await (const part of attached.output) {
        if (part !== "scrollback end") text += decoder.decode(part.bytes, { stream: true });
        if (text.split("\n").length > lines) break;
      }
      return text
        .split("\n")
        .slice(0, -1)
        .map((line) => JSON.parse(line) as unknown);
    },
    [Symbol.asyncDispose]: () => world[Symbol.asyncDispose](),
  };
}

suite("agent sessions", () => {
  test("receive their settings, then the prompt, each as a line", async () => {
    await using given = await setUp();
    const settings = {
      ...{
        model: "m",
        systemPrompt: "line one\nline two",
        allowedTools: ["Bash"],
        permissionMode: "default",
        maxTurns: 3,
      },
      ...{ cwd: "/tmp", mcpServers: { a: { command: "b", args: ["c"], env: { D: "e" } } } },
      ...{ resume: "00000000-0000-4000-8000-000000000000" },
    };
    const body = { ...settings, prompt: "fix it\nplease", envs: { ANTHROPIC_API_KEY: "k" } };
    const [status, reply] = await given.world.ask("POST", given.at, body);
    assert.equal(status, 201);
    const { sessionID, startedAt, ...rest } = reply;
    assert.match(sessionID, /^[0-9a-f]{8}$/);
    assert.ok(Date.parse(startedAt) >= 0);
    assert.deepEqual(rest, { sandboxID: given.id, running: true, claudeSessionID: settings.resume });
    assert.deepEqual(await given.received(sessionID, 2), [
      { type: "configure", ...settings },
      { type: "prompt", text: "fix it\nplease" },
    ]);
  });

  test("receive no settings when none, or only empty ones, are given", async () => {
    await using given = await setUp();
    const session = await given.start({ prompt: "hi", model: "", maxTurns: 0, cwd: null });
    assert.deepEqual(await given.received(session, 1), [{ type: "prompt", text: "hi" }]);
    await given.start({});
  });

  test("take prompts of any length, and interrupts", async () => {
    await using given = await setUp();
    const session = await given.start();
    const text = "long 🙂 ".repeat(20_000);
    for (const prompt of ["first", text]) {
      assert.equal((await given.world.call("POST", `${given.at}/${session}/prompt`, { text: prompt })).status, 204);
    }
    assert.equal((await given.world.call("POST", `${given.at}/${session}/interrupt`)).status, 204);
    const [first, long, interrupt] = await given.received(session, 3);
    assert.deepEqual([first, interrupt], [{ type: "prompt", text: "first" }, { type: "interrupt" }]);
    // `deepEqual` would print megabytes of difference.
    assert.ok(isDeepStrictEqual(long, { type: "prompt", text }));
    const [status, reply] = await given.world.ask("POST", `${given.at}/${session}/prompt`, { text: "" });
    assert.deepEqual([status, reply.error], [400, "text is required"]);
  });

  test("are listed on their own and among the exec sessions, until five minutes after their end", async () => {
    await using given = await setUp();
    const { world, at, clock } = given;
    const [, other] = await world.ask("POST", `/api/sandboxes/${given.id}/exec`, { cmd: "cat" });
    const session = await given.start();
    const list = async () =>
      (await world.ask("GET", at))[1] as { sessionID: string; running: boolean; exitCode?: number }[];
    assert.deepEqual(
      (await list()).map(({ sessionID, running }) => [sessionID, running]),
      [[session, true]],
    );
    const [, all] = await world.ask("GET", `/api/sandboxes/${given.id}/exec`);
    assert.deepEqual(
      all.map(({ sessionID }: { sessionID: string }) => sessionID),
      [other.sessionID, session],
    );
    assert.equal((await world.call("POST", `${at}/${session}/kill`, { signal: 15 })).status, 204);
    await eventually("it has ended", async () => (await list())[0]?.running === false);
    assert.equal((await world.ask("GET", `${at}/${session}`))[1].exitCode, -1);
    const [status, reply] = await world.ask("POST", `${at}/${session}/prompt`, { text: "hi" });
    assert.deepEqual([status, reply.error], [409, "the agent session has ended"]);
    assert.equal((await world.call("POST", `${at}/${session}/kill`)).status, 204);
    clock.advance(300);
    assert.deepEqual(await list(), []);
  });

  test("other sessions are not found", async () => {
    await using given = await setUp();
    const { world, at } = given;
    const [, { sessionID }] = await world.ask("POST", `/api/sandboxes/${given.id}/exec`, { cmd: "cat" });
    for (const session of ["00000000", sessionID]) {
      for (const [method, path, body] of [
        ["GET", "", undefined],
        ["POST", "/prompt", { text: "hi" }],
        ["POST", "/interrupt", undefined],
        ["POST", "/kill", {}],
      ] as const) {
        const [status, reply] = await world.ask(method, `${at}/${session}${path}`, body);
        assert.deepEqual([status, reply.error], [404, "session not found"], path);
      }
    }
  });

  test("a sandbox without the program answers that it is too old", async () => {
    await using given = await setUp();
    given.sessions.agentProgram = ["/no/such/program"];
    const [status, reply] = await given.world.ask("POST", given.at, { prompt: "hi" });
    assert.equal(status, 501);
    assert.equal(reply.error, "this sandbox is too old for agent sessions: create a new one");
  });

  test("a session that cannot receive its prompt is removed", async () => {
    await using given = await setUp();
    const { sessions } = given.world.worker.guest(given.id);
    const attach = sessions.attach.bind(sessions);
    sessions.attach = async (...request) => ({
      ...(await attach(...request)),
      write: async () => await Promise.reject(new Error("broken")),
    });
    assert.equal((await given.world.call("POST", given.at, { prompt: "hi" })).status, 500);
    assert.deepEqual(given.sessions.list(), []);
  });

  test("invalid settings are refused", async () => {
    await using given = await setUp();
    for (const [body, error] of [
      [{ permissionMode: "yolo" }, /permissionMode/],
      [{ maxTurns: -1 }, /maxTurns/],
      [{ resume: "../x" }, /resume/],
      [{ mcpServers: { a: {} } }, /mcpServers/],
      [{ cwd: "a\0b" }, /cwd must not contain a NUL character/],
    ] as const) {
      const [status, reply] = await given.world.ask("POST", given.at, body);
      assert.equal(status, 400);
      assert.match(reply.error, error);
    }
    assert.deepEqual(given.sessions.list(), []);
  });
});
