import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { lockFile } from "../file-lock.ts";
import { directoryLockOf, holdDirectories, holdDirectory } from "./directory-lock.ts";

async function parentOf(t: TestContext, ...names: readonly string[]): Promise<string> {
  const parent = await mkdtemp(join(tmpdir(), "osb-directory-lock-"));
  t.after(() => rm(parent, { recursive: true }));
  for (const name of names) await mkdir(join(parent, name));
  return parent;
}

test("several users hold a directory at once, and nobody takes it alone until all have let go", async (t) => {
  const directory = join(await parentOf(t, "a"), "a");
  const holds = [await holdDirectory(directory), await holdDirectory(directory)];
  for (const hold of holds) {
    assert.equal(await lockFile(directoryLockOf(directory), { wait: false }), undefined);
    hold?.[Symbol.dispose]();
  }
  using alone = await lockFile(directoryLockOf(directory), { wait: false });
  assert.ok(alone !== undefined);
});

test("when one of several directories is gone, none of them is held", async (t) => {
  const parent = await parentOf(t, "a");
  assert.equal(await holdDirectories([join(parent, "a"), join(parent, "gone")]), undefined);
  using alone = await lockFile(directoryLockOf(join(parent, "a")), { wait: false });
  assert.ok(alone !== undefined);
});

const needsRoot = process.getuid?.() === 0 ? false : "only root becomes another user";

test("a user who may only read a cache can start from it", { skip: needsRoot }, async (t) => {
  const parent = await parentOf(t, "a", "b", "locks");
  await chmod(parent, 0o755);
  // The lock of one directory exists and can be read; the other's cannot be made.
  (await holdDirectory(join(parent, "a")))?.[Symbol.dispose]();
  const source = `
    const { holdDirectories } = await import("${import.meta.resolve("./directory-lock.ts")}");
    process.setgid(65534);
    process.setuid(65534);
    const [a, b] = process.argv.slice(-2);
    const held = await holdDirectories([a, b]);
    if (held === undefined) process.exit(3);
  `;
  const argv = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", source];
  const child = spawn(process.execPath, [...argv, join(parent, "a"), join(parent, "b")], { stdio: "inherit" });
  assert.deepEqual(await once(child, "exit", { signal: AbortSignal.timeout(60_000) }), [0, null]);
  assert.deepEqual(await readdir(join(parent, "locks")), ["a"]);
});
