import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { startFleetWorld } from "./fleet-world.ts";

test("a real machine on a worker hibernates, wakes, is forked, and outlives a crash of server and worker", async () => {
  await using world = await startFleetWorld({ workers: 1, env: { OPENSANDBOX_VM_BACKEND: "qemu" } });
  const ok = async (method: string, path: string, body?: object) => {
    const { status, reply } = await world.call(method, path, body);
    assert.ok(status < 300, `${method} ${path}: ${status} ${JSON.stringify(reply)}`);
    return reply;
  };
  const shell = async (id: string, cmd: string): Promise<string> =>
    (await ok("POST", `/sandboxes/${id}/exec/run`, { cmd, timeout: 120 })).stdout.trim();

  const { sandboxID: id } = await ok("POST", "/sandboxes", { templateID: "minimal", memoryMB: 512, timeout: 0 });
  const pid = await shell(id, "sleep 100000 >/dev/null 2>&1 & echo $!");
  const isAlive = `kill -0 ${pid} && echo alive`;

  await ok("POST", `/sandboxes/${id}/hibernate`);
  await world.killServer();
  await world.startServer();
  await world.untilUp(1);
  assert.equal(await shell(id, isAlive), "alive", "a use wakes it with its processes");

  await world.killWorker(0);
  await world.startWorker(0);
  await world.untilUp(1);
  assert.equal(await shell(id, isAlive), "alive", "the next worker has adopted the machine");

  const { id: checkpoint } = await ok("POST", `/sandboxes/${id}/checkpoints`, { name: "one" });
  await eventually(
    "the checkpoint is ready",
    async () => {
      const checkpoints = (await ok("GET", `/sandboxes/${id}/checkpoints`)) as { id: string; status: string }[];
      return checkpoints.find((each) => each.id === checkpoint)?.status === "ready";
    },
    { withinMs: 120_000, everyMs: 500 },
  );
  const { sandboxID: fork } = await ok("POST", `/sandboxes/from-checkpoint/${checkpoint}`, {});
  assert.equal(await shell(fork, isAlive), "alive", "the fork has the processes");
  for (const each of [fork, id]) await ok("DELETE", `/sandboxes/${each}`);
});
