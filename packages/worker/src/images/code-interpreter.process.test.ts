import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import { after, before, suite, test } from "node:test";
import { fileURLToPath } from "node:url";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";

const program = fileURLToPath(import.meta.resolve("../../../../images/agent/code-interpreter"));

interface Event {
  readonly type: string;
  readonly text?: string;
  readonly html?: string;
  readonly png?: string;
  readonly json?: unknown;
  readonly name?: string;
  readonly value?: string;
  readonly is_main_result?: boolean;
}

// The program runs here as in a guest. The interface is that of E2B's code interpreter.
suite("the code interpreter", () => {
  const stack = new AsyncDisposableStack();
  let url: string;

  before(async () => {
    const port = await freePort();
    url = `http://127.0.0.1:${port}`;
    const PATH = `${dirname(process.execPath)}:${process.env["PATH"] ?? ""}`;
    const server = spawn("python3", [program, "serve"], {
      env: { ...process.env, PATH, CODE_INTERPRETER_PORT: `${port}`, HOME: tmpdir() },
      stdio: ["ignore", "ignore", "inherit"],
    });
    const exited = once(server, "exit");
    stack.defer(async () => {
      for (const { id } of (await (await fetch(`${url}/contexts`)).json()) as { id: string }[]) {
        await fetch(`${url}/contexts/${id}`, { method: "DELETE" });
      }
      server.kill("SIGKILL");
      await exited;
    });
    await eventually("it answers", async () => (await fetch(`${url}/health`).catch(() => undefined))?.ok ?? false);
  });
  after(() => stack.disposeAsync());

  async function execute(code: string, more: object = {}, signal?: AbortSignal): Promise<Event[]> {
    const body = JSON.stringify({ code, ...more });
    const response = await fetch(`${url}/execute`, {
      method: "POST",
      body,
      ...(signal === undefined ? {} : { signal }),
    });
    const text = await response.text();
    assert.equal(response.status, 200, text);
    // Some clients decode chunks one by one, which splits characters of several bytes.
    assert.match(text, /^[\n\u{20}-\u{7e}]*$/u);
    return text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Event);
  }

  const textOf = (events: readonly Event[], type: string): string =>
    events.flatMap((event) => (event.type === type ? [event.text ?? ""] : [])).join("");
  const errorOf = (events: readonly Event[]) => events.find(({ type }) => type === "error");

  test("variables last, and the value of the last expression is the main result", async () => {
    const events = await execute("x = 41\nprint('h\u00e9')\nx + 1");
    assert.deepEqual([textOf(events, "stdout"), textOf(events, "result")], ["h\u00e9\n", "42"]);
    assert.deepEqual([events[0]?.type, events.at(-1)?.type], ["number_of_executions", "end_of_execution"]);
    assert.equal(textOf(await execute("import asyncio\nawait asyncio.sleep(0)\nx"), "result"), "41");
    assert.deepEqual(
      (await execute("x;")).filter(({ type }) => type === "result"),
      [],
    );
  });

  test("output of other programs, and rich forms of values, arrive as well", async () => {
    const shell = await execute("!echo out; echo err >&2");
    assert.deepEqual([textOf(shell, "stdout"), textOf(shell, "stderr")], ["out\n", "err\n"]);
    const rich = await execute(
      "class R:\n  def _repr_html_(self): return '<i>'\n  def _repr_png_(self): return b'\\x89PNG'\ndisplay(R())\n{'a': [1]}",
    );
    const [shown, main] = rich.filter(({ type }) => type === "result");
    const png = Buffer.from("\x89PNG", "latin1").toString("base64");
    assert.deepEqual([shown?.html, shown?.png, shown?.is_main_result], ["<i>", png, false]);
    assert.deepEqual([main?.json, main?.is_main_result], [{ a: [1] }, true]);
  });

  test("an error has a name, a value and a traceback of the code alone", async () => {
    const error = errorOf(await execute("def f():\n  return 1 / 0\nf()"));
    assert.deepEqual([error?.name, error?.value], ["ZeroDivisionError", "division by zero"]);
    assert.ok(!JSON.stringify(error).includes("code-interpreter"), JSON.stringify(error));
    assert.equal(errorOf(await execute("1 +"))?.name, "SyntaxError");
  });

  test("JavaScript, TypeScript and bash have contexts of their own", async () => {
    const script = await execute("const a = await Promise.resolve(5); console.log('js'); ({ a })", { language: "js" });
    assert.deepEqual([textOf(script, "stdout"), textOf(script, "result")], ["js\n", "{ a: 5 }"]);
    assert.equal(textOf(await execute("a + 1", { language: "javascript" }), "result"), "6");
    assert.equal(errorOf(await execute("nope()", { language: "js" }))?.name, "ReferenceError");
    assert.equal(textOf(await execute("let n: number = 3; n", { language: "ts" }), "result"), "3");
    assert.equal(
      textOf(await execute("V=1; echo $V $E", { language: "bash", env_vars: { E: "it's" } }), "stdout"),
      "1 it's\n",
    );
    assert.equal(errorOf(await execute("echo $V; false", { language: "bash" }))?.value, "1");
    const refused = await fetch(`${url}/execute`, {
      method: "POST",
      body: JSON.stringify({ code: "1", language: "r" }),
    });
    assert.equal(refused.status, 400);
  });

  test("contexts are separate, listed, restarted and removed", async () => {
    const made = await fetch(`${url}/contexts`, { method: "POST", body: JSON.stringify({ cwd: "/" }) });
    const { id, cwd } = (await made.json()) as { id: string; cwd: string };
    assert.equal(cwd, "/");
    assert.equal(textOf(await execute("import os; y = 1; os.getcwd()", { context_id: id }), "result"), "/");
    assert.equal(errorOf(await execute("y"))?.name, "NameError");
    assert.equal((await fetch(`${url}/contexts/${id}/restart`, { method: "POST" })).status, 200);
    assert.equal(errorOf(await execute("y", { context_id: id }))?.name, "NameError");
    assert.equal((await fetch(`${url}/contexts/${id}`, { method: "DELETE" })).status, 200);
    assert.equal((await fetch(`${url}/contexts/${id}`, { method: "DELETE" })).status, 404);
  });

  test("a client that leaves interrupts its code, and variables stay", async () => {
    await execute("kept = 7");
    for (const [language, code] of [
      ["python", "import time\nwhile True: time.sleep(0.01)"],
      ["javascript", "while (true);"],
      ["bash", "sleep 600"],
    ] as const) {
      const left = new AbortController();
      const endless = execute(code, { language }, left.signal);
      setTimeout(() => left.abort(), 300);
      await assert.rejects(endless);
    }
    assert.equal(textOf(await execute("kept"), "result"), "7");
    assert.equal(textOf(await execute("echo runs", { language: "bash" }), "stdout"), "runs\n");
  });

  test("a process that ends is reported, and its context starts anew", async () => {
    assert.equal(errorOf(await execute("import os; os._exit(3)"))?.name, "KernelDied");
    assert.equal(textOf(await execute("6 * 7"), "result"), "42");
  });
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
