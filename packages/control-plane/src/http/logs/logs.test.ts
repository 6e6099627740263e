import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, suite, test } from "node:test";
import type { LogLineReply } from "@opensandbox/wire/public/sandboxes/logs.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { startForTest, testKey, type TestControlPlane } from "#testing/start-for-test.ts";

suite("the log of a sandbox", () => {
  let stack: AsyncDisposableStack;
  let world: TestControlPlane;
  let id: string;

  beforeEach(async () => {
    stack = new AsyncDisposableStack();
    world = stack.use(await startForTest());
    id = await world.create();
    world.worker.refusals = [
      {
        at: new Date().toISOString(),
        count: 2,
        protocol: "tls",
        host: "evil.example",
        address: "203.0.113.7",
        port: 443,
        reason: "no",
      },
    ];
  });
  afterEach(() => stack.disposeAsync());

  async function lines(query = ""): Promise<readonly LogLineReply[]> {
    const [status, found] = await world.ask("GET", `/api/sandboxes/${id}/logs${query}`);
    assert.equal(status, 200, JSON.stringify(found));
    return found;
  }

  /** Runs a session to its end. */
  async function session(script: string): Promise<string> {
    const [, { sessionID }] = await world.ask("POST", `/api/sandboxes/${id}/exec`, { cmd: "sh", args: ["-c", script] });
    await eventually("the session has ended", async () => {
      const [, all] = await world.ask("GET", `/api/sandboxes/${id}/exec`);
      return (all as { sessionID: string; running: boolean }[]).some(
        (each) => each.sessionID === sessionID && !each.running,
      );
    });
    return sessionID;
  }

  test("has the console, the lifecycle, refusals, and the output of commands by line with their exit code", async () => {
    const exec = await session("echo one; echo two >&2; printf three; exit 3");
    const found = await lines();
    const of = (source: string) => found.filter((line) => line.source === source).map(({ line }) => line);
    assert.deepEqual(found[0], { source: "console", line: "the console", sandbox_id: id });
    assert.deepEqual(of("lifecycle"), ["created image=default", "ready"]);
    assert.deepEqual(of("refusal"), ["tls evil.example 203.0.113.7:443: no"]);
    assert.deepEqual(of("exec_stdout"), ["one", "three"]);
    assert.deepEqual(of("exec_stderr"), ["two"]);
    const one = found.find(({ line }) => line === "one");
    assert.deepEqual([one?.exec_id, one?.command, one?.exit_code], [exec, "sh", 3]);
  });

  test("selects by source, text, time and number", async () => {
    await session("seq 1 50");
    assert.deepEqual(
      (await lines("?source=exec_stdout&tail=2")).map(({ line }) => line),
      ["49", "50"],
    );
    assert.deepEqual(
      (await lines("?source=exec_stdout&limit=2&q=4")).map(({ line }) => line),
      ["4", "14"],
    );
    assert.deepEqual(await lines("?source=lifecycle,refusal&since=2099-01-01T00:00:00Z"), []);
    assert.equal((await lines("?source=lifecycle&until=2099-01-01T00:00:00Z")).length, 2);
    for (const query of ["source=nothing", "tail=0", "since=yesterday", "follow=1"]) {
      assert.equal((await world.ask("GET", `/api/sandboxes/${id}/logs?${query}`))[0], 400, query);
    }
  });

  test("does not wake a sandbox: a hibernated one has its lifecycle alone", async () => {
    await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
    const found = await lines();
    assert.deepEqual(
      found.map(({ line }) => line),
      ["created image=default", "ready", "hibernated"],
    );
    assert.equal((await world.get(id)).status, "hibernated");
  });

  test("a stream goes on with new lines once, of a command that runs, of its end, and of what happens", async () => {
    const directory = await mkdtemp(join(tmpdir(), "log-test-"));
    stack.defer(() => rm(directory, { recursive: true }));
    const script = `echo begun; while [ ! -e ${directory}/go ]; do sleep 0.05; done; echo got`;
    await world.ask("POST", `/api/sandboxes/${id}/exec`, { cmd: "sh", args: ["-c", script] });
    const ended = new AbortController();
    const response = await fetch(`${world.url}/api/sandboxes/${id}/logs?source=exec_stdout,lifecycle`, {
      headers: { "x-api-key": testKey, accept: "text/event-stream" },
      signal: ended.signal,
    });
    stack.defer(() => ended.abort());
    let text = "";
    const reading = (async () => {
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) text += chunk;
    })();
    reading.catch(() => undefined);
    const seen = (): readonly string[] =>
      [...text.matchAll(/^event: log\ndata: (.*)$/gm)].map(([, data]) => (JSON.parse(data ?? "") as LogLineReply).line);
    await eventually("the first lines", () => seen().includes("begun"));
    await writeFile(join(directory, "go"), "");
    await eventually("the next line", () => seen().includes("got"));
    await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
    await eventually("the hibernation", () => seen().includes("hibernated"));
    assert.deepEqual(seen(), ["created image=default", "ready", "begun", "got", "hibernated"]);
    ended.abort();
    await within(
      "the end of the stream",
      reading.catch(() => undefined),
    );
  });

  test("another organization's sandbox and an unknown one have no log", async () => {
    assert.equal((await world.ask("GET", "/api/sandboxes/sb-0000000000000000/logs"))[0], 404);
  });
});
