import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { startFleetWorld } from "./fleet-world.ts";

test("a real machine wakes on another worker with its processes, and its checkpoint is forked there", async () => {
  await using undo = new AsyncDisposableStack();
  const store = await mkdtemp(join(tmpdir(), "osb-store-"));
  undo.defer(() => rm(store, { recursive: true, force: true }));
  const world = undo.use(
    await startFleetWorld({
      workers: 2,
      env: {
        OPENSANDBOX_VM_BACKEND: "qemu",
        OPENSANDBOX_READY_MACHINES: "0",
        OPENSANDBOX_OBJECT_STORE_KEY: "0123456789abcdef".repeat(4),
      },
      workerEnv: { OPENSANDBOX_OBJECT_STORE: `file://${store}` },
    }),
  );
  const ok = async (method: string, path: string, body?: object) => {
    const { status, reply } = await world.call(method, path, body);
    assert.ok(status < 300, `${method} ${path}: ${status} ${JSON.stringify(reply)}`);
    return reply;
  };
  const shell = async (id: string, cmd: string): Promise<string> =>
    (await ok("POST", `/sandboxes/${id}/exec/run`, { cmd, timeout: 120 })).stdout.trim();
  const cordon = async (workerId: string, cordoned: boolean): Promise<void> => await world.cordon(workerId, cordoned);

  const { sandboxID: id, workerID: first } = await ok("POST", "/sandboxes", {
    templateID: "minimal",
    memoryMB: 512,
    timeout: 0,
  });
  const second = (await world.report()).find((worker) => worker.id !== first)?.id ?? assert.fail("one worker");
  const pid = await shell(id, "sleep 100000 >/dev/null 2>&1 & echo $!");
  await shell(id, "echo kept > /home/sandbox/note; sync");
  const isWhole = `kill -0 ${pid} && cat /home/sandbox/note`;

  const { id: checkpoint } = await ok("POST", `/sandboxes/${id}/checkpoints`, { name: "one" });
  await eventually(
    "the checkpoint is ready",
    async () => (await ok("GET", `/sandboxes/${id}/checkpoints/${checkpoint}`)).status === "ready",
    { withinMs: 120_000, everyMs: 500 },
  );
  const moved = await ok("POST", `/sandboxes/${id}/migrate`, {});
  assert.deepEqual([moved.sourceWorker, moved.targetWorker], [first, second]);
  const row = await ok("GET", `/sandboxes/${id}`);
  assert.equal(row.restoredFrom, "memory", row.restoredBecause);
  assert.equal(await shell(id, isWhole), "kept", "its process and its file have moved with it");

  await cordon(first, true);
  await eventually(
    "a fork on the other worker",
    async () => {
      const { status, reply } = await world.call("POST", `/sandboxes/from-checkpoint/${checkpoint}`, {});
      if (status >= 300) return false;
      assert.equal(await shell(reply.sandboxID, isWhole), "kept", "the fork has the process and the file");
      // The checkpoint may not be stored yet, and is then forked where it is.
      const isThere = reply.workerID === second;
      await ok("DELETE", `/sandboxes/${reply.sandboxID}`);
      return isThere;
    },
    { withinMs: 240_000, everyMs: 2000 },
  );

  await ok("POST", `/sandboxes/${id}/hibernate`);
  await eventually(
    "a wake where the snapshot is not",
    async () => {
      await cordon(first, false);
      await cordon(second, true);
      await ok("POST", `/sandboxes/${id}/wake`, {});
      const { workerID } = await ok("GET", `/sandboxes/${id}`);
      assert.equal(await shell(id, isWhole), "kept");
      if (workerID === first) return true;
      await ok("POST", `/sandboxes/${id}/hibernate`);
      return false;
    },
    { withinMs: 240_000, everyMs: 5000 },
  );
});
