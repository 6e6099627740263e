import assert from "node:assert/strict";
import { copyFile, mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { ImageStore } from "../../packages/worker/src/images/image-store.ts";
import { readJournal } from "../../packages/worker/src/machine/journal.ts";
import { allFiles, encodeManifest } from "../../packages/worker/src/snapshots/manifest.ts";
import { SnapshotStore } from "../../packages/worker/src/snapshots/snapshot-store.ts";
import { releases } from "./releases.ts";

async function emptyDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-compatibility-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

for (const release of releases) {
  for (const contents of ["memory", "disks"] as const) {
    test(`a snapshot of ${release.name} with its ${contents} is found, and its manifest is written unchanged`, async (t) => {
      const directory = await emptyDirectory(t);
      const file = release.file(`snapshot-manifest-${contents}.json`);
      const text = await readFile(file, "utf8");
      const { id } = JSON.parse(text) as { readonly id: string };
      await mkdir(join(directory, id));
      await copyFile(file, join(directory, id, "manifest.json"));

      const stored = await new SnapshotStore(directory).find(id);

      assert.ok(stored);
      assert.equal(encodeManifest(stored.manifest), text);
      const { files, memory, shape } = stored.manifest;
      assert.deepEqual(shape, { vcpus: 1, memoryMib: 1024, workspaceMib: 20_480 });
      assert.equal(memory === undefined, contents === "disks");
      for (const name of ["kernel", "initramfs", "rootfs.base", "workspace.base", "agent.base", "rootfs-1.qcow2"]) {
        assert.ok(allFiles(files).includes(name), name);
      }
      for (const layer of files.disks.flatMap(({ layers }) => layers)) {
        assert.match(layer.sha256, /^[0-9a-f]{64}$/);
        assert.ok(layer.bytes > 0, layer.file);
      }
    });
  }

  test(`the journal entry of a sandbox that ran under ${release.name} has every field that an adoption needs`, async (t) => {
    const directory = await emptyDirectory(t);
    const file = release.file("journal-entry.json");
    const written = JSON.parse(await readFile(file, "utf8")) as { readonly machineId: string };
    await mkdir(join(directory, "journal"));
    await copyFile(file, join(directory, "journal", `${written.machineId}.json`));

    const { entries, unreadable } = await readJournal(directory);

    assert.deepEqual(unreadable, []);
    assert.deepEqual(entries, [written]);
    const [entry] = entries;
    assert.match(entry?.sandbox?.id ?? "", /^sb-/);
    assert.equal(entry?.machine?.image, "minimal");
    assert.equal(entry.machine.spec.memoryMib, 1024);
    assert.equal(typeof entry.machine.spec.growthMib, "number");
    assert.equal(typeof entry.machine.nextLayer, "number");
    assert.deepEqual(
      entry.machine.files.disks.map(({ name }) => name),
      ["rootfs", "workspace", "agent"],
    );
  });

  test(`an image that ${release.name} built is listed`, async (t) => {
    const imagesDirectory = await emptyDirectory(t);
    const file = release.file("image-manifest.json");
    const { hash } = JSON.parse(await readFile(file, "utf8")) as { readonly hash: string };
    await mkdir(join(imagesDirectory, `image-${hash}`));
    await copyFile(file, join(imagesDirectory, `image-${hash}`, "manifest.json"));

    const listed = await new ImageStore({ imagesDirectory }).list();

    assert.equal(listed.find(({ name }) => name === "minimal")?.build?.hash, hash);
  });
}
