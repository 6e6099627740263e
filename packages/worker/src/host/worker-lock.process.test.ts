import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { startHolder } from "./testing/holder.ts";
import { claimWorker, isWorkerAlive, removeDeadWorkers } from "./worker-lock.ts";

async function emptyDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-workers-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

test("a worker is alive from its claim to the end of the claim, and each id has one", async (t) => {
  const directory = await emptyDirectory(t);
  assert.equal(isWorkerAlive(directory, "w-1"), false);
  const claim = await claimWorker(directory, "w-1");
  assert.equal(isWorkerAlive(directory, "w-1"), true);
  await assert.rejects(claimWorker(directory, "w-1"), (error) => isSandboxError(error, "unavailable"));
  assert.equal(isWorkerAlive(directory, "w-1"), true, "asking does not end the claim");
  await claim[Symbol.asyncDispose]();
  assert.equal(isWorkerAlive(directory, "w-1"), false);
  assert.deepEqual(await readdir(directory), []);
});

test("a killed worker is dead at once, and its lock is removed once nothing of it is needed", async (t) => {
  const directory = await emptyDirectory(t);
  await using _alive = await claimWorker(directory, "w-alive");
  await using holder = await startHolder("worker", directory, "w-killed");
  assert.equal(isWorkerAlive(directory, "w-killed"), true);
  await holder.kill();
  assert.equal(isWorkerAlive(directory, "w-killed"), false);
  await removeDeadWorkers(directory, (id) => id === "w-killed");
  assert.deepEqual((await readdir(directory)).toSorted(), ["w-alive.lock", "w-killed.lock"]);
  await removeDeadWorkers(directory, () => false);
  assert.deepEqual(await readdir(directory), ["w-alive.lock"]);
});
