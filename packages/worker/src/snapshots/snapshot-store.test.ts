import assert from "node:assert/strict";
import { link, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SnapshotManifest } from "./manifest.ts";
import { SnapshotStore } from "./snapshot-store.ts";

async function withStore(run: (store: SnapshotStore, directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "osb-store-"));
  try {
    await run(new SnapshotStore(directory), directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

const files = { kernel: "", initramfs: "", memoryBase: "", disks: [] };
const manifest = { id: "a", image: "minimal", files, ownBytes: 1 } as unknown as SnapshotManifest;

test("a snapshot exists from its publication until its removal", async () => {
  await withStore(async (store, directory) => {
    await using unfinished = await store.createUnfinished("a", "w-1");
    await writeFile(join(unfinished.directory, "memory.delta"), "pages");
    assert.equal(await store.find("a"), undefined);
    await unfinished.publish(manifest);
    const found = await store.find("a");
    assert.equal(found?.manifest.image, "minimal");
    assert.equal(await readFile(join(found?.directory ?? "", "memory.delta"), "utf8"), "pages");
    await store.remove("a");
    await store.remove("a");
    assert.equal(await store.find("a"), undefined);
    assert.deepEqual(await readdir(directory), []);
  });
});

test("disposing an unpublished snapshot removes it", async () => {
  await withStore(async (store, directory) => {
    {
      await using unfinished = await store.createUnfinished("a", "w-1");
      await writeFile(join(unfinished.directory, "memory.delta"), "pages");
    }
    assert.deepEqual(await readdir(directory), []);
  });
});

test("unfinished snapshots of a dead owner are removed, those of a living one stay", async () => {
  await withStore(async (store, directory) => {
    await store.createUnfinished("a", "w-1");
    await store.createUnfinished("b", "w-2");
    await store.removeUnfinished((owner) => owner === "w-2");
    assert.deepEqual(await readdir(directory), [".unfinished-w-2-b"]);
  });
});

test("removing a snapshot keeps the files that another one shares", async () => {
  await withStore(async (store) => {
    await using first = await store.createUnfinished("a", "w-1");
    await writeFile(join(first.directory, "layer"), "content");
    const published = await first.publish(manifest);
    await using second = await store.createUnfinished("b", "w-1");
    await link(join(published.directory, "layer"), join(second.directory, "layer"));
    const kept = await second.publish({ ...manifest, id: "b" });
    await store.remove("a");
    assert.equal(await readFile(join(kept.directory, "layer"), "utf8"), "content");
    assert.equal((await stat(join(kept.directory, "layer"))).nlink, 1);
  });
});

for (const [damage, content] of [
  ["empty", ""],
  ["torn", '{"formatVersion": 1, "id": "a'],
  ["not a manifest", "null"],
  ["missing", undefined],
] as const) {
  test(`a snapshot whose manifest is ${damage} is refused as damaged and keeps its files`, async () => {
    await withStore(async (store) => {
      await using unfinished = await store.createUnfinished("a", "w-1");
      await writeFile(join(unfinished.directory, "memory.delta"), "pages");
      const { directory } = await unfinished.publish(manifest);
      await rm(join(directory, "manifest.json"));
      if (content !== undefined) await writeFile(join(directory, "manifest.json"), content);

      await assert.rejects(
        store.find("a"),
        (error) => isSandboxError(error, "incompatible") && error.details.reason === "damaged",
      );
      await store.removeUnfinished(() => false);

      assert.equal(await readFile(join(directory, "memory.delta"), "utf8"), "pages");
    });
  });
}
