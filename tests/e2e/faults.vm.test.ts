import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { type Server, startServer } from "@opensandbox/server";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { hostState } from "./host-state.ts";
import { machineProcesses } from "./machine-processes.ts";
import { endServer, spawnServerOn } from "./spawn-server.ts";
import { worldConfig } from "./world.ts";

const never = new AbortController().signal;

async function openServer(dataDirectory: string): Promise<Server> {
  return await startServer(worldConfig(dataDirectory), { embedded: true, onProgress: () => undefined }, never);
}

async function statusOf(server: { url: string; apiKey?: string }, id: string): Promise<string> {
  const response = await fetch(`${server.url}/api/sandboxes/${id}`, { headers: { "X-API-Key": server.apiKey ?? "" } });
  return ((await response.json()) as { status: string }).status;
}

test("the next server removes everything that a killed one left, and corrects the rows", async (t) => {
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-kill-"));
  t.after(() => rm(dataDirectory, { recursive: true }));
  const before = hostState(dataDirectory);

  const first = await spawnServerOn(dataDirectory);
  const sandbox = await Sandbox.create({ template: "minimal", apiUrl: first.url, apiKey: first.apiKey });
  const starting = Sandbox.create({ template: "minimal", apiUrl: first.url, apiKey: first.apiKey }).catch(
    () => undefined,
  );
  await sandbox.commands.run("sleep 0.3");
  await endServer(first.process, "SIGKILL");
  await starting;
  assert.notDeepEqual(hostState(dataDirectory), before, "machines outlive the server");

  {
    await using second = await openServer(dataDirectory);
    const { workers: _, ...after } = hostState(dataDirectory) as { workers: string[] };
    const { workers: __, ...expected } = before as { workers: string[] };
    assert.deepEqual(after, expected);
    assert.equal(await statusOf(second, sandbox.sandboxId), "stopped");
    const list = (await (
      await fetch(`${second.url}/api/sandboxes`, { headers: { "X-API-Key": second.apiKey ?? "" } })
    ).json()) as object[];
    assert.deepEqual(list, []);
  }
});

test("a server that receives SIGTERM ends its machines", async (t) => {
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-term-"));
  t.after(() => rm(dataDirectory, { recursive: true }));
  const before = hostState(dataDirectory);
  const first = await spawnServerOn(dataDirectory);
  await Sandbox.create({ template: "minimal", apiUrl: first.url, apiKey: first.apiKey });
  assert.equal(await endServer(first.process, "SIGTERM"), 0);
  assert.deepEqual(hostState(dataDirectory), before);
});

test("two servers on one data directory leave each other's machines alone", async (t) => {
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-two-"));
  t.after(() => rm(dataDirectory, { recursive: true }));
  await using first = await openServer(dataDirectory);
  const sandbox = await Sandbox.create({ template: "minimal", apiUrl: first.url, apiKey: first.apiKey ?? "" });
  {
    await using second = await openServer(dataDirectory);
    assert.ok(second.url !== first.url);
  }
  assert.equal((await sandbox.commands.run("echo still here")).stdout, "still here\n");
});

test("a machine whose QEMU is killed becomes an error in the API and leaves nothing behind", async (t) => {
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-qemu-"));
  t.after(() => rm(dataDirectory, { recursive: true }));
  const before = hostState(dataDirectory);
  {
    await using server = await openServer(dataDirectory);
    const sandbox = await Sandbox.create({ template: "minimal", apiUrl: server.url, apiKey: server.apiKey ?? "" });
    const running = sandbox.commands.run("sleep 100");
    const failed = assert.rejects(running);
    await sandbox.commands.run("true");
    const [qemu, ...others] = await machineProcesses(dataDirectory);
    assert.deepEqual(others, []);
    process.kill(qemu!, "SIGKILL");
    await failed;
    const ended = async () => (await statusOf(server, sandbox.sandboxId)) !== "running";
    await eventually("the end of QEMU is noticed", ended, { withinMs: 120_000 });
    assert.equal(await statusOf(server, sandbox.sandboxId), "error");
    await sandbox.kill();
    assert.equal(await statusOf(server, sandbox.sandboxId), "stopped");
  }
  assert.deepEqual(hostState(dataDirectory), before);
});
