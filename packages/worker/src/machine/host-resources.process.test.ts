import assert from "node:assert/strict";
import { chmod, chown, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { Host } from "./host.ts";
import { acquireHostResources, adoptHostResources, type HostResources } from "./host-resources.ts";

const skip = process.getuid?.() === 0 ? false : "needs root";
const host = { root: true, network: { mode: "user" } } as Host;

async function machineDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-machine-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  await chmod(directory, 0o700);
  return directory;
}

async function acquire(directory: string): Promise<HostResources> {
  return await acquireHostResources(
    { machineId: "m-00000001", limits: {}, directory, networkEnabled: false, tenantGroup: 2_000_000_001 },
    host,
  );
}

test("the user of an ended machine cannot enter the directory that the machine left", { skip }, async (t) => {
  const directory = await machineDirectory(t);
  for (const adopted of [false, true]) {
    const acquired = await acquire(directory);
    const { slot, user } = acquired;
    assert.ok(user !== undefined && user.uid !== 0);
    await chown(directory, user.uid, user.gid);

    const held = adopted ? await adoptHostResources(directory, slot, "none", 2_000_000_001, host) : acquired;
    assert.equal((await stat(directory)).uid, user.uid, "the machine runs");
    await held[Symbol.asyncDispose]();

    const { uid, gid, mode } = await stat(directory);
    assert.deepEqual([uid, gid, mode & 0o777], [0, 0, 0o700]);
  }
});

test("resources of a machine whose directory is gone can be returned", { skip }, async (t) => {
  const directory = await machineDirectory(t);
  const acquired = await acquire(directory);
  await rm(directory, { recursive: true });
  await acquired[Symbol.asyncDispose]();
});
