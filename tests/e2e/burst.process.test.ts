// Bursts of creates, as the public benchmark of sandboxes has them (computesdk/benchmarks, METHODOLOGY.md): many at once,
// and many with 200 ms between two. The machines are fake; the queue and everything around the machines are real.
import assert from "node:assert/strict";
import { after, before, suite, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { spawnServer, type SpawnedServer } from "./spawn-server.ts";

/** The benchmark has 100 of both. Those that are staggered overlap less, so fewer show the same. */
const counts = { atOnce: 100, staggered: 25 };
const staggerMs = 200;

suite("bursts of creates", () => {
  let server: SpawnedServer;

  before(async () => {
    server = await spawnServer({
      env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1", OPENSANDBOX_MAX_CAPACITY: "1000" },
    });
  });
  after(() => server?.[Symbol.asyncDispose]());

  async function call(method: string, path: string, body?: unknown): Promise<Record<string, unknown>> {
    const response = await fetch(`${server.url}/api/sandboxes${path}`, {
      ...{ method, headers: { "x-api-key": server.apiKey }, signal: AbortSignal.timeout(600_000) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
    return text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
  }

  /** Milliseconds until a sandbox is created and has run its first command. The sandbox is deleted afterwards. */
  async function interactive(ends: string[]): Promise<number> {
    const since = performance.now();
    const id = String((await call("POST", "", { templateID: "minimal" }))["sandboxID"]);
    ends.push(id);
    const { exitCode } = await call("POST", `/${id}/exec/run`, { cmd: "true", args: [] });
    assert.equal(exitCode, 0);
    return performance.now() - since;
  }

  async function burst(count: number, delayMs: number): Promise<readonly number[]> {
    const ends: string[] = [];
    try {
      const launched = Array.from({ length: count }, async (_, index) => {
        await sleep(index * delayMs);
        return await interactive(ends);
      });
      // All of them are served: a refusal or a failure rejects.
      return (await Promise.all(launched)).toSorted((a, b) => a - b);
    } finally {
      for (const id of ends) await call("DELETE", `/${id}`);
    }
  }

  /** How even the burst was depends on the host's other work, so it is printed; `osb bench` measures it. */
  async function isServed(t: TestContext, count: number, delayMs: number): Promise<void> {
    const milliseconds = await burst(count, delayMs);
    assert.equal(milliseconds.length, count);
    const [median = 0, last = 0] = [0.5, 0.99].map((share) => milliseconds[Math.ceil(share * count) - 1]);
    t.diagnostic(`median ${Math.round(median)} ms, 99th percentile ${Math.round(last)} ms`);
  }

  test(`${counts.atOnce} creates at once are all served`, (t) => isServed(t, counts.atOnce, 0));
  test(`${counts.staggered} creates, one every ${staggerMs} ms, are all served`, (t) =>
    isServed(t, counts.staggered, staggerMs));
});
