import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import type { AgentEvent, AttachedAgent } from "@opensandbox/sdk";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { runForTest, type PartialClient, testInterrupts } from "../../testing/test-host.ts";

const id = "sb-1a2b3c4d";
const agent = { id: "5f0d3e5d", running: true, startedAt: "2026-01-01T00:00:00.000Z" };
const conversation = "5f0d3e5d-0667-43b1-a989-ffccae31a58c";

const answer: readonly AgentEvent[] = [
  { type: "ready" },
  { type: "system", subtype: "init" },
  {
    type: "assistant",
    message: {
      content: [
        { type: "text", text: "let me see" },
        { type: "tool_use", name: "Bash", input: { command: "pwd" } },
      ],
    },
  },
  { type: "user", message: { content: [{ type: "tool_result", content: "no\nsuch", is_error: true }] } },
  { type: "assistant", message: { content: [{ type: "text", text: "it is /" }] } },
  { type: "result", is_error: false, result: "it is /" },
  { type: "turn_complete", claude_session_id: conversation },
];

interface TestAgent {
  readonly client: PartialClient;
  /** The calls that the agent received, in order. */
  readonly done: unknown[];
  readonly emit: (...events: readonly AgentEvent[]) => void;
}

/** An agent that emits the events of the test, and ends when it is asked to. */
function testAgent(exitCode = 0, onDone: (what: unknown, agent: TestAgent) => void = () => undefined): TestAgent {
  const events = new PassThrough({ objectMode: true });
  const did = async (what: unknown): Promise<void> => {
    stand.done.push(what);
    onDone(what, stand);
    await Promise.resolve();
  };
  const attached: AttachedAgent = {
    id: agent.id,
    events: events as AsyncIterable<AgentEvent>,
    exitCode: Promise.resolve(exitCode),
    prompt: async (text) => await did(["prompt", text]),
    interrupt: async () => await did("interrupt"),
    configure: async () => await did("configure"),
    end: async () => {
      await did("end");
      events.end();
    },
    kill: async () => await did("kill"),
    detach: () => events.end(),
  };
  const stand: TestAgent = {
    done: [],
    emit: (...emitted) => {
      for (const event of emitted) events.write(event);
    },
    client: {
      agents: {
        start: async (sandbox, request) => {
          await did(["start", sandbox, request]);
          return agent;
        },
        attach: async (_sandbox, _agent, signal) => {
          signal?.addEventListener("abort", () => {
            events.destroy(new SandboxError("unavailable", "the connection ended"));
          });
          return await Promise.resolve(attached);
        },
        kill: async (_sandbox, agentId, number) => await did(["kill", agentId, number]),
        prompt: async (_sandbox, agentId, text) => await did(["prompt", agentId, text]),
        interrupt: async (_sandbox, agentId) => await did(["interrupt", agentId]),
        list: async () => await Promise.resolve([agent, { ...agent, id: "00000002", running: false, exitCode: 1 }]),
      },
    },
  };
  return stand;
}

test("answers go to standard output, tool uses to standard error, and the command ends with the answer", async () => {
  const { client, done, emit } = testAgent();
  emit(...answer);
  const line = ["agent", "run", "-e", "ANTHROPIC_API_KEY=k", "--tools", "Bash, Read", "--max-turns", "3", id];
  const options = ["--mcp", "files=serve-files --all", "--permission-mode", "plan", "where", "are you?"];
  const { code, stdout, stderr } = await runForTest([...line, ...options], { client });
  assert.deepEqual([code, stdout], [0, "let me see\nit is /\n"]);
  assert.deepEqual(stderr.split("\n"), [
    'osb: Bash {"command":"pwd"}',
    "osb: failed: no such",
    `osb: --resume ${conversation} continues this conversation`,
    "",
  ]);
  const request = {
    envs: { ANTHROPIC_API_KEY: "k" },
    allowedTools: ["Bash", "Read"],
    permissionMode: "plan",
    maxTurns: 3,
    mcpServers: { files: { command: "/bin/sh", args: ["-c", "serve-files --all"] } },
    prompt: "where are you?",
  };
  assert.deepEqual(done, [["start", id, request], "end"]);
});

test("with --json, each event is a line", async () => {
  const { client, emit } = testAgent();
  emit(...answer);
  const { code, stdout, stderr } = await runForTest(["agent", "run", "--json", id, "-"], { client, stdin: "hello\n" });
  assert.deepEqual([code, stderr], [0, ""]);
  assert.deepEqual(
    stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as AgentEvent),
    answer,
  );
});

test("a prompt of - is read from standard input, and an empty prompt is a mistake", async () => {
  const { client, done, emit } = testAgent();
  emit(...answer);
  await runForTest(["agent", "run", id, "-"], { client, stdin: "a task\nin two lines\n" });
  assert.deepEqual(done[0], ["start", id, { envs: {}, prompt: "a task\nin two lines\n" }]);
  const empty = await runForTest(["agent", "run", id, "-"], { client });
  assert.deepEqual([empty.code, empty.stderr.split("\n")[0]], [2, "osb: the prompt is empty"]);
});

test("an error event exits with 1, whether the agent continues or not", async () => {
  const failing = testAgent();
  failing.emit({ type: "error", message: "invalid x-api-key" }, { type: "turn_complete", claude_session_id: "c" });
  const failed = await runForTest(["agent", "run", id, "hello"], { client: failing.client });
  assert.deepEqual([failed.code, failed.stdout], [1, ""]);
  assert.match(failed.stderr, /^osb: invalid x-api-key\n/);

  const without = testAgent(1, (_what, { emit }) => emit({ type: "error", message: "there is no key" }));
  const detached = runForTest(["agent", "run", id, "hello"], { client: without.client });
  await new Promise(setImmediate);
  (await without.client.agents?.attach?.(id, agent.id))?.detach();
  const { code, stderr } = await detached;
  assert.deepEqual([code, stderr], [1, "osb: there is no key\n"]);
});

test("an interrupt goes to the agent and sets the exit code", async () => {
  const interrupts = testInterrupts();
  const { client, done } = testAgent(0, (what, { emit }) => {
    // The interrupt is sent before the attach, and passed on after it.
    if (Array.isArray(what)) interrupts.send("SIGINT");
    if (what === "interrupt") emit({ type: "interrupted" }, { type: "turn_complete", claude_session_id: "c" });
  });
  const { code, stderr } = await runForTest(["agent", "run", id, "hello"], { client, interrupts });
  assert.equal(code, 130);
  assert.match(stderr, /^osb: interrupted\n/);
  assert.deepEqual(done.slice(1), ["interrupt", "end"]);
});

test("a second interrupt kills the agent", async () => {
  const interrupts = testInterrupts();
  const { client, done } = testAgent(0, (what) => {
    if (what === "interrupt") setImmediate(() => interrupts.send("SIGTERM"));
  });
  const code = runForTest(["agent", "run", id, "hello"], { client, interrupts });
  setImmediate(() => interrupts.send("SIGINT"));
  assert.equal((await code).code, 143);
  assert.deepEqual(done.at(-1), ["kill", agent.id, undefined]);
});

test("a lasting agent is started, listed, prompted, interrupted, killed and followed", async () => {
  const { client, done, emit } = testAgent();
  assert.equal((await runForTest(["agent", "start", "--model", "m", id], { client })).stdout, "5f0d3e5d\n");
  const listed = await runForTest(["agent", "ls", id], { client });
  assert.match(listed.stdout, /^AGENT +STATUS +AGE\n5f0d3e5d +running +\S+\n00000002 +exited with 1 +\S+\n$/);
  assert.equal(
    (await runForTest(["agent", "prompt", id, agent.id, "and", "now?"], { client })).stdout,
    "sent the prompt to 5f0d3e5d\n",
  );
  assert.equal((await runForTest(["agent", "interrupt", id, agent.id], { client })).code, 0);
  assert.equal((await runForTest(["agent", "kill", "--signal", "15", id, agent.id], { client })).code, 0);
  assert.deepEqual(done, [
    ["start", id, { model: "m", envs: {} }],
    ["prompt", agent.id, "and now?"],
    ["interrupt", agent.id],
    ["kill", agent.id, 15],
  ]);
  emit(...answer);
  (await client.agents?.attach?.(id, agent.id))?.detach();
  const followed = await runForTest(["agent", "attach", id, agent.id], { client });
  assert.deepEqual([followed.code, followed.stdout], [0, "let me see\nit is /\n"]);
});
