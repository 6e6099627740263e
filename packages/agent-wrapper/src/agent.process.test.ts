import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite, test } from "node:test";
import { eventOf, eventually } from "@opensandbox/wire/testing/eventually.ts";
import type { Event } from "./event.ts";
import { textOf, type ModelMessage } from "./model/message.ts";
import { startStubModel, type StubModel } from "./testing/stub-model.ts";
import { Wrapper } from "./testing/start-wrapper.ts";

// Runs the program as a process, against a model server over HTTP.

interface World extends AsyncDisposable {
  readonly home: string;
  readonly model: StubModel;
  start(env?: Readonly<Record<string, string>>): Wrapper;
}

async function startWorld(): Promise<World> {
  const undo = new AsyncDisposableStack();
  const home = await mkdtemp(join(tmpdir(), "osb-agent-wrapper-"));
  undo.defer(() => rm(home, { recursive: true, force: true }));
  const model = undo.use(await startStubModel());
  return {
    home,
    model,
    start: (env = {}) => undo.use(new Wrapper(home, { ANTHROPIC_BASE_URL: model.url, ...env })),
    [Symbol.asyncDispose]: () => undo.disposeAsync(),
  };
}

const messageOf = (event: Event | undefined): ModelMessage =>
  (event ?? assert.fail("no event"))["message"] as ModelMessage;
const types = (events: readonly Event[]): string[] => events.map(({ type }) => type);
const said = (event: Event | undefined): string => textOf(messageOf(event).content);
const find = (events: readonly Event[], type: string): Event =>
  events.find((event) => event.type === type) ?? assert.fail(`no ${type} in ${JSON.stringify(events)}`);

suite("the agent wrapper", () => {
  test("answers prompts, remembers the conversation, and exits at the end of its input", async () => {
    await using world = await startWorld();
    const agent = world.start();
    assert.deepEqual(await agent.next(), { type: "ready" });
    const first = await agent.ask("hello wörld 中文 🙂");
    assert.deepEqual(types(first), ["system", "assistant", "result", "turn_complete"]);
    const [system, assistant, result, complete] = first;
    assert.deepEqual(system?.["tools"], ["Bash", "Read", "Write", "Edit"]);
    assert.equal(said(assistant), "you said: hello wörld 中文 🙂");
    assert.equal(result?.["result"], "you said: hello wörld 中文 🙂");
    assert.equal(result["is_error"], false);
    assert.deepEqual(result["usage"], { input_tokens: 10, output_tokens: 5 });
    assert.match(String(complete?.["claude_session_id"]), /^[0-9a-f-]{36}$/);
    await agent.ask("again");
    assert.deepEqual(
      world.model.requests.at(-1)?.messages.map(({ role, content }) => [role, content[0]?.["text"]]),
      [
        ["user", "hello wörld 中文 🙂"],
        ["assistant", "you said: hello wörld 中文 🙂"],
        ["user", "again"],
      ],
    );
    agent.child.stdin.end('{"type":"prompt","text":"the last"}');
    assert.equal(find(await agent.until("turn_complete"), "result")["result"], "you said: the last");
    assert.equal(await agent.ended, 0);
    assert.equal(agent.stderr, "");
  });

  test("reports a missing key and exits with 1", async () => {
    await using world = await startWorld();
    const agent = world.start({ ANTHROPIC_API_KEY: "" });
    const message = "ANTHROPIC_API_KEY is not set in the environment of the sandbox";
    assert.deepEqual(await agent.next(), { type: "error", message });
    assert.equal(await agent.ended, 1);
  });

  test("invalid lines are reported and ignored, and an interrupt between turns is answered", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    agent.write("{\n", "\n", Buffer.from([0xff, 0xfe, 0x0a]).toString("latin1"), '{"type":"x"}\n', "null\n");
    for (let count = 0; count < 4; count += 1) assert.equal((await agent.next()).type, "error");
    assert.equal(find(await agent.ask("still there"), "result")["result"], "you said: still there");
    agent.write({ type: "interrupt" });
    assert.deepEqual(await agent.next(), { type: "interrupted" });
  });

  test("runs commands in the configured directory and answers with their output", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    agent.write({ type: "configure", cwd: "/tmp", model: "some-model", systemPrompt: "be brief" });
    const configured = { type: "configured", model: "some-model", permissionMode: "bypassPermissions", cwd: "/tmp" };
    assert.deepEqual(await agent.next(), configured);
    const events = await agent.ask("run pwd; echo oops >&2; exit 3");
    assert.deepEqual(types(events), [
      ...["system", "assistant", "user", "tool_use_summary", "assistant", "result", "turn_complete"],
    ]);
    const [use] = messageOf(events[1]).content.filter(({ type }) => type === "tool_use");
    assert.deepEqual(use?.["input"], { command: "pwd; echo oops >&2; exit 3" });
    assert.deepEqual(messageOf(events[2]).content, [
      { type: "tool_result", tool_use_id: use["id"], content: "/tmp\noops\n(exit code 3)", is_error: true },
    ]);
    assert.deepEqual(events[3]?.["preceding_tool_use_ids"], [use["id"]]);
    assert.equal(find(events, "result")["result"], "it said: /tmp\noops\n(exit code 3)");
    assert.equal(find(events, "result")["num_turns"], 2);
    const [request] = world.model.requests;
    assert.equal(request?.model, "some-model");
    assert.equal(request.system[0]?.text, "be brief");
    const { result: much } = find(await agent.ask("run seq 1000000"), "result");
    assert.ok(String(much).length < 40_000);
    assert.match(String(much), /^it said: 1\n2\n[^]*bytes omitted[^]*\n1000000$/);
    const late = await agent.ask('use Bash {"command":"echo begun; sleep 300","timeout":300}');
    assert.equal(find(late, "result")["result"], "it said: begun\n(killed: it exceeded its timeout)");
    assert.equal(
      find(await agent.ask("broken input"), "result")["result"],
      "it said: the input is not a complete JSON object",
    );
  });

  test("a background process outlives its command without delaying the turn, and ends with the session", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    const result = find(await agent.ask("run sleep 300 & echo $!"), "result");
    const pid = Number(/\d+/.exec(String(result["result"]))?.[0]);
    assert.equal(process.kill(pid, 0), true);
    // The background process belongs to the session's process group.
    await agent[Symbol.asyncDispose]();
    await eventuallyGone(pid);
  });

  test("files are written, edited and read, and failures are reported to the model", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    const use = async (name: string, input: object): Promise<string> =>
      String(find(await agent.ask(`use ${name} ${JSON.stringify(input)}`), "result")["result"]).slice(
        "it said: ".length,
      );
    const file_path = "sub/dir/file.txt";
    const path = join(world.home, file_path);
    assert.equal(await use("Write", { file_path, content: "one\ntwo\ntwo\n" }), `wrote ${path}`);
    assert.equal(await use("Read", { file_path, offset: 2, limit: 1 }), "2\ttwo\n(1 more lines)");
    assert.match(await use("Edit", { file_path, old_string: "two", new_string: "2" }), /2 times/);
    assert.match(await use("Edit", { file_path, old_string: "three", new_string: "3" }), /does not occur in/);
    await use("Edit", { file_path, old_string: "two", new_string: "$&", replace_all: true });
    assert.equal(await readFile(path, "utf8"), "one\n$&\n$&\n");
    assert.match(await use("Read", { file_path: "/no/such" }), /ENOENT/);
    assert.equal(await use("Read", {}), "file_path must be a string");
    assert.equal(await use("Nothing", {}), "the tool Nothing does not exist or is not permitted");
    assert.equal((await stat(path)).size, 10);
  });

  test("tools that are not permitted are neither offered nor run", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    agent.write({ type: "configure", permissionMode: "acceptEdits" });
    await agent.next();
    const events = await agent.ask("run touch made");
    assert.deepEqual(find(events, "system")["tools"], ["Read", "Write", "Edit"]);
    assert.equal(find(events, "result")["result"], "it said: the tool Bash does not exist or is not permitted");
    await assert.rejects(stat(join(world.home, "made")), { code: "ENOENT" });
    agent.write({ type: "configure", permissionMode: "default", allowedTools: ["Bash", "WebSearch"] });
    await agent.next();
    assert.deepEqual(find(await agent.ask("hi"), "system")["tools"], ["Bash", "Read"]);
    agent.write({ type: "configure", permissionMode: "plan" });
    await agent.next();
    assert.deepEqual(find(await agent.ask("hi"), "system")["tools"], ["Read"]);
  });

  test("an interrupt during an answer keeps its text and drops the queued prompts", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    agent.write({ type: "configure", includePartialMessages: true }, { type: "prompt", text: "stream" });
    agent.write({ type: "prompt", text: "waits" });
    const before: Event[] = [];
    do before.push(await agent.next());
    while (!JSON.stringify(before.at(-1)).includes("word1 "));
    agent.write({ type: "interrupt" });
    const after = await agent.until("turn_complete");
    assert.deepEqual(
      types(after).filter((type) => type !== "stream_event"),
      ["interrupted", "turn_complete"],
    );
    assert.equal(find(await agent.ask("next"), "result")["result"], "you said: next");
    const messages = world.model.requests.at(-1)?.messages ?? [];
    assert.deepEqual(
      messages.map(({ role }) => role),
      ["user", "assistant", "user"],
    );
    assert.match(String(messages[1]?.content[0]?.["text"]), /^word0 word1 /);
    assert.equal(messages[2]?.content[0]?.["text"], "next");
  });

  test("an interrupt kills a command with its child processes", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    agent.write({ type: "prompt", text: "run sh -c 'sleep 300 & echo $! > pid; wait'; true" });
    await agent.until("assistant");
    const pid = await eventually("the command writes its process id", async () =>
      Number((await readFile(join(world.home, "pid"), "utf8").catch(() => "")).trim()),
    );
    agent.write({ type: "interrupt" });
    const events = await agent.until("turn_complete");
    assert.deepEqual(types(events), ["user", "tool_use_summary", "interrupted", "turn_complete"]);
    await eventuallyGone(pid);
    // Every tool use has a result, so that the conversation can continue.
    assert.equal(find(await agent.ask("next"), "result")["result"], "you said: next");
  });

  test("a turn asks the model at most maxTurns times", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    agent.write({ type: "configure", maxTurns: 3 });
    await agent.next();
    const result = find(await agent.ask("loop"), "result");
    assert.deepEqual([result["subtype"], result["is_error"], result["num_turns"]], ["error_max_turns", true, 3]);
    assert.equal(world.model.requests.length, 3);
  });

  test("a failure of the model server is reported, and the next turn works", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    for (const [prompt, message] of [
      ["status 400", "the model server answered 400: refused (some_error)"],
      ["close", "the model server ended the stream before the message was complete"],
      ["reset", /^the connection to the model server broke: /],
      ["garbage", "the model server sent an event that is not a JSON object: {not json"],
      ["html", "the model server answered with text/html: <h1>a proxy</h1>"],
      ["overloaded", "the model server aborted the answer: Overloaded (overloaded_error)"],
    ] as const) {
      world.model.requests.length = 0;
      const events = await agent.ask(prompt);
      assert.deepEqual(types(events), ["system", "error", "turn_complete"], prompt);
      const reported = String(events[1]?.["message"]);
      if (typeof message === "string") assert.equal(reported, message);
      else assert.match(reported, message);
      assert.equal(world.model.requests.length, 1);
      assert.equal(find(await agent.ask("next"), "result")["result"], "you said: next");
    }
    assert.equal(agent.stderr, "");
  });

  test("a wrong key is reported without a retry", async () => {
    await using world = await startWorld();
    const agent = world.start({ ANTHROPIC_API_KEY: "wrong" });
    await agent.next();
    const error = find(await agent.ask("hi"), "error");
    assert.equal(error["message"], "the model server answered 401: invalid x-api-key (authentication_error)");
    assert.equal(world.model.requests.length, 1);
  });

  test("an overloaded server is asked up to five times, and each retry is reported", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    const events = await agent.ask("once 529");
    assert.deepEqual(types(events), ["system", "system", "assistant", "result", "turn_complete"]);
    assert.equal(events[1]?.["subtype"], "api_retry");
    assert.match(String(events[1]["error"]), /529: Overloaded/);
    world.model.requests.length = 0;
    const failed = await agent.ask("status 529");
    assert.equal(find(failed, "error")["message"], "the model server answered 529: refused (some_error)");
    assert.equal(world.model.requests.length, 5);
  });

  test("an interrupt ends the retries of an unreachable server", async () => {
    await using world = await startWorld();
    const closed = createServer().listen(0, "127.0.0.1");
    await eventOf(closed, "listening");
    const { port } = closed.address() as { port: number };
    closed.close();
    const agent = world.start({ ANTHROPIC_BASE_URL: `http://127.0.0.1:${port}/` });
    await agent.next();
    agent.write({ type: "prompt", text: "hi" });
    await agent.until("system");
    const retry = await agent.next();
    assert.match(
      String(retry["error"]),
      new RegExp(`^cannot reach the model server at http://127.0.0.1:${port}/v1/messages: `),
    );
    agent.write({ type: "interrupt" });
    assert.deepEqual(types(await agent.until("turn_complete")).slice(-2), ["interrupted", "turn_complete"]);
  });

  test("another session continues a conversation, and an unknown one is reported", async () => {
    await using world = await startWorld();
    const first = world.start();
    await first.next();
    const [complete] = (await first.ask("the first")).slice(-1);
    const id = String(complete?.["claude_session_id"]);
    const second = world.start();
    await second.next();
    second.write({ type: "configure", resume: id });
    assert.equal((await second.next()).type, "configured");
    const events = await second.ask("the second");
    assert.equal(events.at(-1)?.["claude_session_id"], id);
    assert.equal(world.model.requests.at(-1)?.messages.length, 3);
    const missing = "00000000-0000-4000-8000-000000000000";
    second.write({ type: "configure", resume: missing });
    await second.next();
    assert.deepEqual(await second.next(), {
      type: "error",
      message: `cannot resume conversation ${missing}: this sandbox has no such conversation`,
    });
  });

  test("an MCP server's tools are used, its exit is reported, and it is started again", async () => {
    await using world = await startWorld();
    const agent = world.start();
    await agent.next();
    const echo = {
      command: process.execPath,
      args: [join(import.meta.dirname, "testing/mcp-echo.ts")],
      env: { PREFIX: "echo:" },
    };
    agent.write({ type: "configure", mcpServers: { echo, missing: { command: "/no/such/program" } } });
    await agent.next();
    const events = await agent.ask('use mcp__echo__echo {"text":"hello"}');
    const system = find(events, "system");
    assert.deepEqual((system["tools"] as string[]).at(-1), "mcp__echo__echo");
    const [connected, failed] = system["mcp_servers"] as { name: string; status: string; error?: string }[];
    assert.deepEqual(connected, { name: "echo", status: "connected" });
    assert.equal(failed?.status, "failed");
    assert.match(failed.error ?? "", /ENOENT/);
    assert.equal(find(events, "result")["result"], "it said: echo: hello");
    const ended = await agent.ask('use mcp__echo__echo {"text":"end"}');
    assert.equal(find(ended, "result")["result"], "it said: the MCP server has exited");
    const again = await agent.ask('use mcp__echo__echo {"text":"back"}');
    assert.equal(find(again, "result")["result"], "it said: echo: back");
    agent.child.stdin.end();
    assert.equal(await agent.ended, 0);
  });
});

async function eventuallyGone(pid: number): Promise<void> {
  await eventually(`process ${pid} ends`, async () => {
    // A zombie counts as ended.
    const state = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => ") Z");
    return / Z/.test(state.slice(state.lastIndexOf(")")));
  });
}
