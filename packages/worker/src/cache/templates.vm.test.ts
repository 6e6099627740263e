import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { newSnapshotId } from "@opensandbox/wire/ids.ts";
import { startTestHost, testImagesDirectory } from "../testing/test-host.ts";
import { cacheItems, pathOf } from "./cache-items.ts";
import { removeItem } from "./remove-item.ts";
import { recentMs, selectRemovals } from "./select-removals.ts";

test("a template stays while its sandbox or a snapshot of it exists, goes afterwards, and is made again", async (t) => {
  const templatesDirectory = await mkdtemp(join(tmpdir(), "osb-templates-"));
  t.after(() => rm(templatesDirectory, { recursive: true }));
  await using host = await startTestHost({ templatesDirectory });
  const directories = { dataDirectory: host.dataDirectory, imagesDirectory: testImagesDirectory, templatesDirectory };
  const selected = async () => {
    const later = new Date(Date.now() + 2 * recentMs);
    const { removals } = selectRemovals(await cacheItems(directories), { maxBytes: 0, maxAgeMs: undefined }, later);
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
