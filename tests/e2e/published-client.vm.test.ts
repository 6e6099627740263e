import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { Sandbox, type SandboxAgentEvent } from "@opencomputer/sdk";
import { Sandbox as OwnSandbox } from "@opensandbox/sdk";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { startCli, type StartedCli } from "./cli.ts";
import { startWorld, type World } from "./world.ts";

// The published client, unmodified, against a real machine.
suite("the published client", () => {
  let world: World;
  let sandbox: Sandbox;

  before(async () => {
    world = await startWorld();
    sandbox = await Sandbox.create({
      template: "base",
      apiUrl: world.url,
      apiKey: world.apiKey,
      envs: { FROM_CREATE: "yes", ANTHROPIC_BASE_URL: "http://localhost:4010", ANTHROPIC_API_KEY: "stub-key" },
    });
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
  });

  test("a created sandbox is running and can be connected to", async () => {
    assert.match(sandbox.sandboxId, /^sb-[0-9a-f]{16}$/);
    assert.equal(await sandbox.isRunning(), true);
    const again = await Sandbox.connect(sandbox.sandboxId, { apiUrl: world.url, apiKey: world.apiKey });
    assert.equal((await again.commands.run("echo again")).stdout, "again\n");
  });

  test("commands return their output streams apart, and their exit code", async () => {
    assert.deepEqual(await sandbox.commands.run("echo out; echo err >&2; exit 3"), {
      exitCode: 3,
      stdout: "out\n",
      stderr: "err\n",
    });
  });

  test("exec.run takes an environment and a directory", async () => {
    const { stdout } = await sandbox.exec.run("echo $A $FROM_CREATE; pwd", { env: { A: "b" }, cwd: "/tmp" });
    assert.equal(stdout, "b yes\n/tmp\n");
  });

  test("a command that takes too long is killed with all its descendants", async () => {
    const { exitCode, stderr } = await sandbox.exec.run("(setsid sleep 1234 &) ; sleep 1234", { timeout: 1 });
    assert.equal(exitCode, -1);
    assert.match(stderr, /\nProcess timed out$/);
    assert.equal((await sandbox.exec.run("pgrep -fx 'sleep 1234' | wc -l")).stdout.trim(), "0");
  });

  test("a command ended by a signal has no exit code of its own", async () => {
    assert.equal((await sandbox.exec.run("kill -9 $$")).exitCode, -1);
  });

  test("10 000 lines arrive in order", async () => {
    const { stdout } = await sandbox.exec.run("seq 10000");
    assert.deepEqual(
      stdout.split("\n").slice(0, -1),
      Array.from({ length: 10_000 }, (_, index) => String(index + 1)),
    );
  });

  test("20 MB of output arrive whole", async () => {
    const { stdout, exitCode } = await sandbox.exec.run(
      "head -c 15000000 /dev/urandom | base64 -w0 | tee /tmp/big; sha256sum /tmp/big | cut -c1-64 >&2",
    );
    assert.equal(exitCode, 0);
    assert.equal(stdout.length, 20_000_000);
    const { stdout: hash } = await sandbox.exec.run("sha256sum < /tmp/big | cut -c1-64");
    assert.equal(createHash("sha256").update(stdout).digest("hex"), hash.trim());
  });

  test("ten simultaneous commands do not mix", async () => {
    const numbers = Array.from({ length: 10 }, (_, index) => index);
    const results = await Promise.all(
      numbers.map((number) => sandbox.commands.run(`sleep 0.2; echo ${number}; exit ${number}`)),
    );
    assert.deepEqual(
      results,
      numbers.map((number) => ({ exitCode: number, stdout: `${number}\n`, stderr: "" })),
    );
  });

  for (const [name, bytes] of [
    ["1 MB", 1_000_000],
    ["100 MB", 100_000_000],
    ["an empty file", 0],
  ] as const) {
    test(`${name} up and down`, async () => {
      const content = randomBytes(bytes);
      await sandbox.files.write("transfer", content);
      const { stdout } = await sandbox.commands.run("sha256sum < transfer | cut -c1-64; stat -c %U:%a transfer");
      assert.equal(stdout, `${createHash("sha256").update(content).digest("hex")}\nsandbox:644\n`);
      assert.ok(content.equals(await sandbox.files.readBytes("transfer")));
    });
  }

  test("an upload from a stream arrives unchanged", async () => {
    const chunks = Array.from({ length: 50 }, () => randomBytes(10_000));
    await sandbox.files.write("/tmp/streamed", ReadableStream.from(chunks));
    assert.ok(Buffer.concat(chunks).equals(await sandbox.files.readBytes("/tmp/streamed")));
  });

  test("names with spaces, quotes and any script", async () => {
    for (const name of ["a b", "ünï çödé 中文 🙂", 'it\'s "quoted" & $HOME; rm -rf', "%2e%2e", "-n"]) {
      await sandbox.files.write(`/tmp/names/${name}`, name);
      assert.equal(await sandbox.files.read(`/tmp/names/${name}`), name);
    }
    const listed = await sandbox.files.list("/tmp/names");
    assert.equal(listed.length, 5);
    await sandbox.files.remove("/tmp/names");
    assert.equal(await sandbox.files.exists("/tmp/names/a b"), false);
  });

  test("directories: nested, listed, removed with their contents", async () => {
    await sandbox.files.makeDir("/workspace/tree/of/some/depth");
    await sandbox.files.write("/workspace/tree/of/file", "12345");
    // The fields that the client knows; the server sends more.
    const listed = (await sandbox.files.list("/workspace/tree/of")).map(({ name, isDir, path, size }) => ({
      ...{ name, isDir, path },
      size: isDir ? "some" : size,
    }));
    assert.deepEqual(listed, [
      { name: "file", isDir: false, path: "/workspace/tree/of/file", size: 5 },
      { name: "some", isDir: true, path: "/workspace/tree/of/some", size: "some" },
    ]);
    await sandbox.files.remove("/workspace/tree");
    await sandbox.files.remove("/workspace/tree");
    await assert.rejects(sandbox.files.list("/workspace/tree"));
  });

  test("exists is true for a file and for nothing else", async () => {
    await sandbox.files.write("/tmp/here", "");
    assert.equal(await sandbox.files.exists("/tmp/here"), true);
    assert.equal(await sandbox.files.exists("/tmp"), false);
    assert.equal(await sandbox.files.exists("/tmp/nothing"), false);
  });

  test("agent: a prompt, a tool, an interrupt, a reattach, the list and a kill", async () => {
    const model = join(import.meta.dirname, "../../packages/agent-wrapper/src/testing/stub-model.ts");
    await sandbox.files.write("/tmp/stub-model.ts", await readFile(model));
    const disk = "/run/opensandbox";
    const node = `${disk}/lib/ld-linux-x86-64.so.2 --library-path ${disk}/lib ${disk}/bin/node`;
    await sandbox.commands.run(`nohup ${node} /tmp/stub-model.ts 4010 >/tmp/stub.log 2>&1 &`);
    await sandbox.commands.run("until grep -q http /tmp/stub.log; do sleep 0.1; done");

    const agent = new Listener();
    const session = await sandbox.agent.start({
      ...agent.callbacks,
      prompt: "run pwd; echo $FROM_CREATE",
      cwd: "/tmp",
    });
    const first = await agent.until("turn_complete");
    assert.deepEqual(
      first.map(({ type }) => type),
      [
        ...["ready", "configured", "system", "assistant", "user", "tool_use_summary", "assistant", "result"],
        "turn_complete",
      ],
    );
    assert.equal(first.find(({ type }) => type === "result")?.["result"], "it said: /tmp\nyes");
    assert.match(String(first.at(-1)?.["claude_session_id"]), /^[0-9a-f-]{36}$/);

    session.configure({ systemPrompt: "be brief" });
    await agent.until("configured");
    session.sendPrompt("stream");
    await agent.until("system");
    session.interrupt();
    assert.deepEqual(
      (await agent.until("turn_complete")).map(({ type }) => type),
      ["interrupted", "turn_complete"],
    );

    const listed = (await sandbox.agent.list()).map(({ sessionID, running }) => ({ sessionID, running }));
    assert.deepEqual(listed, [{ sessionID: session.sessionId, running: true }]);
    session.close();
    const again = new Listener();
    const attached = await sandbox.agent.attach(session.sessionId, again.callbacks);
    await again.until("turn_complete");
    await again.until("turn_complete");
    attached.sendPrompt("wörld");
    const result = (await again.until("turn_complete")).find(({ type }) => type === "result");
    assert.equal(result?.["result"], "you said: wörld");

    attached.sendPrompt("run sleep 4321");
    await again.until("assistant");
    await attached.kill();
    assert.equal(await attached.done, -1);
    assert.equal((await sandbox.exec.run("pgrep -fx 'sleep 4321' | wc -l")).stdout.trim(), "0");
    assert.equal((await sandbox.agent.list())[0]?.running, false);
    assert.deepEqual([agent.errors, again.errors], [[], []]);
  });

  test("agent: through the SDK and through the command line", async () => {
    const own = await OwnSandbox.connect(sandbox.sandboxId, { url: world.url, apiKey: world.apiKey });
    const agent = await own.agents.start({ prompt: "run echo $FROM_CREATE" });
    const results: unknown[] = [];
    for await (const { type, result } of agent.events) {
      if (type === "result") results.push(result);
      if (type === "turn_complete") await agent.end();
    }
    assert.deepEqual([results, await agent.exitCode], [["it said: yes"], 0]);

    const osb = (...args: string[]): StartedCli =>
      startCli([join(import.meta.dirname, "../../opensandbox")], ["agent", ...args], {
        env: { OPENSANDBOX_API_URL: world.url, OPENSANDBOX_API_KEY: world.apiKey },
        stdin: null,
      });
    const asked = await osb("run", "--cwd", "/tmp", sandbox.sandboxId, "run", "pwd").ended;
    assert.deepEqual([asked.code, asked.stdout.toString()], [0, "let me see\nit said: /tmp\n"], asked.stderr);
    const [, conversation = ""] = /^osb: --resume (\S+)/m.exec(asked.stderr) ?? [];

    const options = ["--json", "--resume", conversation, sandbox.sandboxId];
    const interrupted = osb("run", ...options, "run", "echo begun >/tmp/begun; sleep 5432");
    await sandbox.commands.run("until [ -e /tmp/begun ]; do sleep 0.1; done");
    interrupted.kill("SIGINT");
    const { code, stdout } = await interrupted.ended;
    const events = stdout.toString().trimEnd().split("\n");
    const { type, claude_session_id } = JSON.parse(events.at(-1) ?? "") as SandboxAgentEvent;
    assert.deepEqual([code, type, claude_session_id], [130, "turn_complete", conversation]);
    assert.equal((await sandbox.exec.run("pgrep -fx 'sleep 5432' | wc -l")).stdout.trim(), "0");
  });

  test("the timeout can be set, and a killed sandbox is stopped", async () => {
    await sandbox.setTimeout(600);
    await sandbox.kill();
    const response = await fetch(`${world.url}/api/sandboxes/${sandbox.sandboxId}`, {
      headers: { "X-API-Key": world.apiKey },
    });
    assert.equal(response.status, 200);
    assert.equal(((await response.json()) as { status: string }).status, "stopped");
    assert.equal(await sandbox.isRunning(), false);
    await assert.rejects(sandbox.commands.run("true"));
  });
});

/** Receives an agent's callbacks and returns their events in order. */
class Listener {
  readonly errors: string[] = [];
  readonly callbacks = {
    onEvent: (event: SandboxAgentEvent) => this.#hear(event),
    onError: (text: string) => this.errors.push(text),
  };
  readonly #events: SandboxAgentEvent[] = [];

  /** The events up to the next one of this type. */
  async until(type: string): Promise<SandboxAgentEvent[]> {
    const index = await eventually(
      `the event ${type}`,
      () => this.#events.findIndex((event) => event.type === type) + 1,
      { withinMs: 120_000 },
    );
    return this.#events.splice(0, index);
  }

  #hear(event: SandboxAgentEvent): void {
    this.#events.push(event);
  }
}
