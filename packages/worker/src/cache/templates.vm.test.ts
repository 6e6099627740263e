import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import { startTestHost, testImagesDirectory } from "../testing/test-host.ts";
import { cacheItems, pathOf } from "./cache-items.ts";
import { removeItem } from "./remove-item.ts";
import { recentMs, selectRemovals } from "./select-removals.ts";

test("workspaces of all sizes start from one template, and keep their size and content", async (t) => {
  const templatesDirectory = await mkdtemp(join(tmpdir(), "osb-templates-"));
  t.after(() => rm(templatesDirectory, { recursive: true }));
  await using host = await startTestHost({ templatesDirectory });
  const templates = async () => (await readdir(templatesDirectory)).filter((name) => /^[0-9a-f]{32}$/.test(name));
  const sizeMib = async (id: SandboxId) =>
    Number(await host.shell(id, "df --output=size -BM /workspace | tail -1 | tr -dc 0-9"));
  const isAbout = async (id: SandboxId, workspaceMib: number, when: string) => {
    const found = await sizeMib(id);
    assert.ok(found > 0.95 * workspaceMib && found <= workspaceMib, `${found} of ${workspaceMib} MiB ${when}`);
  };
  const first = await host.start();
  const [only, ...others] = await templates();
  assert.ok(only !== undefined && others.length === 0);
  await isAbout(first.id, 20_480, "of the template's own size");
  await host.worker.stopSandbox(first.id);

  const largest = await host.start(undefined, { workspaceMib: 262_144 });
  assert.equal(largest.restoredFrom, "memory");
  await isAbout(largest.id, 262_144, "of the largest workspace");
  await host.worker.stopSandbox(largest.id);

  const workspaceMib = 30_721;
  const { id, restoredFrom } = await host.start(undefined, { workspaceMib });
  assert.equal(restoredFrom, "memory");
  await isAbout(id, workspaceMib, "at the first command");
  // Fills more than the disk of the template, without the time that data would take, and ends with data.
  await host.shell(id, "fallocate -l 22G fill; head -c 3000000 /dev/urandom >data; sha256sum data >sum; sync");
  const check = (one: SandboxId) =>
    host.shell(one, "echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null; sha256sum -c --quiet sum");

  await host.reopen();
  const snapshotId = newSnapshotId();
  await host.worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, AbortSignal.timeout(60_000));
  for (const from of ["memory", "disk"] as const) {
    const wishes = { workspaceMib, ...(from === "disk" ? { memoryMib: 1280 } : {}) };
    const fork = await host.start({ kind: "snapshot", snapshotId, identity: "new" }, wishes);
    assert.equal(fork.restoredFrom, from);
    await isAbout(fork.id, workspaceMib, `in a fork from ${from}`);
    await check(fork.id);
    await host.worker.stopSandbox(fork.id);
  }
  await host.worker.removeSnapshot(snapshotId);
  await host.shell(id, "echo more >more; sync");
  await host.worker.powerCycleSandbox(id, AbortSignal.timeout(200_000));
  await isAbout(id, workspaceMib, "after a power cycle");
  await check(id);
  assert.equal(await host.shell(id, "cat more"), "more");
  const complaints = "sudo dmesg | grep -iE 'ext4.*(error|warning|corrupt)|I/O error' || true";
  assert.equal(await host.shell(id, complaints), "");
  assert.deepEqual(await templates(), [only], "no further template was made");
});

test("a template stays while its sandbox or a snapshot of it exists, goes afterwards, and is made again", async (t) => {
  const templatesDirectory = await mkdtemp(join(tmpdir(), "osb-templates-"));
  t.after(() => rm(templatesDirectory, { recursive: true }));
  await using host = await startTestHost({ templatesDirectory });
  const directories = { dataDirectory: host.dataDirectory, imagesDirectory: testImagesDirectory, templatesDirectory };
  const selected = async () => {
    const later = new Date(Date.now() + 2 * recentMs);
    const { removals } = selectRemovals(
      await cacheItems(directories, () => undefined),
      { maxBytes: 0, maxAgeMs: undefined },
      later,
    );
    // The images of this host are left alone.
    return removals.map(({ item }) => item).filter(({ kind }) => kind === "template");
  };
  const shape = { memoryMib: 512, workspaceMib: 1031 };
  const snapshot = newSnapshotId();
  const { id } = await host.start(undefined, shape);
  assert.deepEqual(await selected(), [], "the sandbox runs");
  await host.worker.hibernateSandbox(id, snapshot, AbortSignal.timeout(60_000));
  assert.deepEqual(await selected(), [], "the sandbox is hibernated");
  await host.worker.removeSnapshot(snapshot);

  const [template, ...others] = await selected();
  assert.ok(template !== undefined && others.length === 0);
  assert.equal(await removeItem(template, directories), true);
  assert.ok(!existsSync(pathOf(template, directories)));

  const again = await host.start(undefined, shape);
  assert.equal(again.restoredFrom, "memory");
  assert.ok(existsSync(pathOf(template, directories)), "the same shape has its template again");
  const sizeMib = Number(await host.shell(again.id, "df --output=size -BM /workspace | tail -1 | tr -dc 0-9"));
  assert.ok(sizeMib > 900 && sizeMib <= 1031, `${sizeMib} MiB`);
});
