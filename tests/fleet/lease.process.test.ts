import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { startFleetWorld } from "./fleet-world.ts";

test("a worker that no server asks pauses its machines, and they run again when a server has compared its rows", async () => {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "osb-lease-"));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  const workerEnv = { OPENSANDBOX_FLEET_LEASE_SECONDS: "5" };
  const world = undo.use(await startFleetWorld({ workers: 1, directory, workerEnv }));
  const created = await world.call("POST", "/sandboxes", { templateID: "minimal", timeout: 0 });
  assert.equal(created.status, 201, JSON.stringify(created.reply));
  const id: string = created.reply.sandboxID;
  const echo = async (): Promise<string> =>
    (await world.call("POST", `/sandboxes/${id}/exec/run`, { cmd: "echo on" })).reply.stdout ?? "";
  assert.equal(await echo(), "on\n");
  const { pid } = await agentBelow(directory);

  await world.killServer();
  await eventually("the machine is paused", async () => (await stateOf(pid)) === "T", {
    withinMs: 60_000,
    everyMs: 200,
  });
  await world.startServer();
  await world.untilUp(1);
  await eventually("the machine runs again", async () => (await stateOf(pid)) !== "T", {
    withinMs: 60_000,
    everyMs: 200,
  });
  assert.equal(await echo(), "on\n");
  assert.equal((await agentBelow(directory)).pid, pid, "it is the same machine");
});

/** The guest agent of the only fake machine. */
async function agentBelow(directory: string): Promise<{ readonly pid: string }> {
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    const argv = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (argv.includes(directory) && argv.includes("agent.sock")) return { pid };
  }
  return assert.fail("no machine runs");
}

/** `T`: stopped. See proc_pid_stat(5). */
async function stateOf(pid: string): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2)[0];
}
