import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { lockFile, removeLockFile } from "./file-lock.ts";
import { startHolder } from "./testing/holder.ts";

async function lockPath(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-lock-"));
  t.after(() => rm(directory, { recursive: true }));
  return join(directory, "lock");
}

test("two callers in one process exclude each other until the first releases the lock", async (t) => {
  const path = await lockPath(t);
  const first = await lockFile(path, { wait: true });
  assert.equal(await lockFile(path, { wait: false }), undefined);
  const second = lockFile(path, { wait: true });
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  using _held = await second;
  assert.equal(await lockFile(path, { wait: false }), undefined);
});

test("the kernel releases the lock of a killed process", async (t) => {
  const path = await lockPath(t);
  await using holder = await startHolder("file", path);
  assert.equal(await lockFile(path, { wait: false }), undefined);
  const waiting = lockFile(path, { wait: true });
  await holder.kill();
  using _held = await waiting;
});

test("aborting the signal ends the wait", async (t) => {
  const path = await lockPath(t);
  using _held = await lockFile(path, { wait: true });
  const giveUp = new AbortController();
  const waiting = lockFile(path, { wait: true }, giveUp.signal);
  giveUp.abort();
  await assert.rejects(waiting, (error) => isSandboxError(error, "canceled"));
});

test("shared locks have several holders, and exclude an exclusive one until the last is released", async (t) => {
  const path = await lockPath(t);
  const shared = { wait: true, kind: "shared" } as const;
  const holders = [await lockFile(path, shared), await lockFile(path, shared)];
  for (const holder of holders) {
    assert.equal(await lockFile(path, { wait: false }), undefined);
    holder[Symbol.dispose]();
  }
  using _held = await lockFile(path, { wait: true });
  assert.equal(await lockFile(path, { wait: false, kind: "shared" }), undefined);
});

test("a caller that waits while the lock file is removed locks the file that the next caller locks", async (t) => {
  const path = await lockPath(t);
  const holder = await lockFile(path, { wait: true });
  const waiting = lockFile(path, { wait: true });
  removeLockFile(path);
  holder[Symbol.dispose]();
  using _held = await waiting;
  assert.equal(await lockFile(path, { wait: false }), undefined);
});

test("a lock file that cannot be opened is named in the error", async (t) => {
  const path = `${await lockPath(t)}/below/nothing`;
  await assert.rejects(lockFile(path, { wait: true }), (error) => {
    assert.ok(isSandboxError(error, "unavailable"));
    assert.ok(error.message.includes(`cannot open the lock file ${path}`));
    return true;
  });
});
