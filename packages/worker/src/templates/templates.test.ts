import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { lockFile } from "#host/file-lock.ts";
import { SnapshotStore } from "#snapshots/snapshot-store.ts";
import { isBeingMade } from "./templates.ts";

test("an unfinished template is kept while a process makes it, and removed otherwise", async (t) => {
  const templatesDirectory = await mkdtemp(join(tmpdir(), "osb-templates-"));
  t.after(() => rm(templatesDirectory, { recursive: true }));
  const store = new SnapshotStore(templatesDirectory);
  for (const key of ["made", "abandoned"]) await store.createUnfinished(key, "w-1");
  assert.equal(await isBeingMade({ templatesDirectory }, "made"), false);
  using _lock = await lockFile(join(templatesDirectory, "locks", "made"), { wait: true });
  assert.equal(await isBeingMade({ templatesDirectory }, "made"), true);

  await store.removeUnfinished(async (_owner, key) => await isBeingMade({ templatesDirectory }, key));

  assert.deepEqual((await readdir(templatesDirectory)).toSorted(), [".unfinished-w-1-made", "locks"]);
});
