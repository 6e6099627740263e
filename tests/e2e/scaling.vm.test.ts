// Scaling as shell scripts do it that users of an earlier implementation have: plain HTTP calls to a server with real
// machines, and calls of the metadata service inside.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { startWorld, type World } from "./world.ts";

const cgroup = "/sys/fs/cgroup/sandbox";

/** Memory and processor time, up to those of the largest script and back. */
const sizes = [
  { memoryMB: 2048, cpuPercent: 200 },
  { memoryMB: 4096, cpuPercent: 400 },
  { memoryMB: 8192, cpuPercent: 800 },
  { memoryMB: 2048, cpuPercent: 200 },
  { memoryMB: 1024, cpuPercent: 100 },
  { memoryMB: 512, cpuPercent: 100 },
] as const;

type Size = (typeof sizes)[number];

suite("scaling by HTTP calls", () => {
  let world: World;

  before(async () => {
    world = await startWorld();
  });
  after(() => world?.[Symbol.asyncDispose]());

  async function call(method: string, path: string, body?: unknown): Promise<Record<string, unknown>> {
    const response = await fetch(`${world.url}/api/sandboxes${path}`, {
      ...{ method, headers: { "x-api-key": world.apiKey }, signal: AbortSignal.timeout(120_000) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
    return text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
  }

  /** A sandbox that is deleted at the end. */
  async function created(): Promise<{ readonly id: string } & AsyncDisposable> {
    const { sandboxID } = await call("POST", "", { templateID: "minimal", memoryMB: 1024 });
    const id = String(sandboxID);
    return { id, [Symbol.asyncDispose]: async () => void (await call("DELETE", `/${id}`)) };
  }

  async function run(id: string, line: string): Promise<string> {
    const reply = await call("POST", `/${id}/exec/run`, { cmd: "sh", args: ["-c", line] });
    assert.equal(reply["exitCode"], 0, `${line}: ${JSON.stringify(reply)}`);
    return String(reply["stdout"]).trim();
  }

  async function has(id: string, { memoryMB, cpuPercent }: Size, when: string): Promise<void> {
    const facts = `cat ${cgroup}/memory.max ${cgroup}/cpu.max; nproc`;
    const [limitBytes, cpuMax, processors] = (await run(id, facts)).split("\n");
    const limitMb = Number(limitBytes) / 2 ** 20;
    assert.ok(limitMb > 0.8 * memoryMB && limitMb <= memoryMB, `${limitMb} of ${memoryMB} MB ${when}`);
    assert.deepEqual([cpuMax, processors], [`${cpuPercent * 1000} 100000`, String(cpuPercent / 100)], when);
  }

  test("limits and scale take effect at the next command, up to 8 GB and 800 % and back", async (t) => {
    await using sandbox = await created();
    const { id } = sandbox;
    await run(id, "setsid sleep 100000 >/dev/null 2>&1 &");
    for (const [step, size] of sizes.entries()) {
      const since = performance.now();
      const reply =
        step % 2 === 0 ? await call("PUT", `/${id}/limits`, size) : await call("POST", `/${id}/scale`, size);
      t.diagnostic(`${size.memoryMB} MB, ${size.cpuPercent} % after ${Math.round(performance.now() - since)} ms`);
      assert.deepEqual([reply["ok"], reply["memoryMB"], reply["cpuPercent"]], [true, size.memoryMB, size.cpuPercent]);
      await has(id, size, `in step ${step}`);
    }
    await run(id, "pgrep -x sleep");
  });

  test("processor time alone takes effect at the next command", async (t) => {
    await using sandbox = await created();
    const { id } = sandbox;
    for (const cpuPercent of [200, 400, 800, 400, 200, 100]) {
      const since = performance.now();
      await call("PUT", `/${id}/limits`, { memoryMB: 1024, cpuPercent });
      t.diagnostic(`${cpuPercent} % after ${Math.round(performance.now() - since)} ms`);
      assert.equal(await run(id, "nproc"), String(cpuPercent / 100));
    }
  });

  test("a sandbox scales itself by its metadata service", async () => {
    await using sandbox = await created();
    const { id } = sandbox;
    for (const { memoryMB, cpuPercent } of sizes) {
      const body = JSON.stringify({ memoryMB, cpuPercent });
      const reply = await run(id, `curl -sS -X POST -d '${body}' http://169.254.169.254/v1/scale`);
      assert.match(reply, /"ok":true/);
      await has(id, { memoryMB, cpuPercent } as Size, "by its own request");
      const limits = JSON.parse(await run(id, "curl -sS http://169.254.169.254/v1/limits")) as Record<string, number>;
      assert.deepEqual([limits["memLimit"], limits["cpuPercent"]], [memoryMB * 2 ** 20, cpuPercent]);
    }
  });

  test("a sandbox with autoscale grows by what its commands use, within its range", async () => {
    await using sandbox = await created();
    const { id } = sandbox;
    await call("PUT", `/${id}/autoscale`, { enabled: true, minMemoryMB: 1024, maxMemoryMB: 1536 });
    // tail holds its input, because nothing reads its output.
    await run(id, "(head -c 800M /dev/zero | tail -c 800M | sleep 100000) >/dev/null 2>&1 &");
    await eventually("the sandbox grows", async () => (await call("GET", `/${id}`))["memoryMB"] === 1536, {
      ...{ withinMs: 300_000, everyMs: 500 },
    });
    assert.ok(Number(await run(id, `cat ${cgroup}/memory.max`)) > 1200 * 2 ** 20);
    assert.equal((await call("GET", `/${id}/autoscale`))["enabled"], true);
  });

  test("sandboxes that scale at the same time get their own sizes, while their commands run", async () => {
    const sandboxes = await Promise.all([created(), created(), created()]);
    try {
      await Promise.all(
        sandboxes.map(async ({ id }, index) => {
          const working = run(id, "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; done | tail -1");
          const size = sizes[index] ?? assert.fail();
          await call("POST", `/${id}/scale`, size);
          assert.equal(await working, "300");
          await has(id, size, `in sandbox ${index}`);
          await call("POST", `/${id}/scale`, { memoryMB: 1024, cpuPercent: 100 });
          await has(id, { memoryMB: 1024, cpuPercent: 100 }, `in sandbox ${index}`);
        }),
      );
    } finally {
      for (const sandbox of sandboxes) await sandbox[Symbol.asyncDispose]();
    }
  });
});
