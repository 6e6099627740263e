import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { makeDurableDirectory } from "#host/storage/durable-files.ts";
import { onDisk, RecordedFiles } from "#host/testing/power-cut.ts";
import {
  type JournaledMachine,
  type JournalEntry,
  machineDirectory,
  readEntries,
  readJournal,
  removeEntry,
  removeUnfinishedEntries,
  setMachineAside,
  writeEntry,
} from "./journal.ts";

const entry: JournalEntry = { machineId: "m-00000001", workerId: "w-1", ephemeral: false };

async function emptyDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-journal-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

test("an entry is read as it was written, replaced and removed", async (t) => {
  const directory = await emptyDirectory(t);
  assert.deepEqual(await readEntries(directory), []);
  await writeEntry(directory, entry);
  const other = { ...entry, machineId: "m-00000002" };
  await writeEntry(directory, other);
  await writeEntry(directory, { ...entry, ephemeral: true });
  const read = await readEntries(directory);
  assert.deepEqual(
    read.toSorted((a, b) => a.machineId.localeCompare(b.machineId)),
    [{ ...entry, ephemeral: true }, other],
  );
  await removeEntry(directory, entry.machineId);
  await removeEntry(directory, entry.machineId);
  assert.deepEqual(await readEntries(directory), [other]);
  assert.deepEqual(await readdir(join(directory, "journal")), ["m-00000002.json"]);
});

test("an entry that was not written to its end does not count, and goes after its writer", async (t) => {
  const directory = await emptyDirectory(t);
  await writeEntry(directory, entry);
  const journal = join(directory, "journal");
  for (const worker of ["w-1", "w-2"])
    await writeFile(join(journal, `m-00000003.${worker}.new`), '{"machineId":"m-000');
  assert.deepEqual(await readEntries(directory), [entry]);
  await removeUnfinishedEntries(directory, (id) => id === "w-1");
  assert.deepEqual((await readdir(journal)).toSorted(), ["m-00000001.json", "m-00000003.w-1.new"]);
});

for (const [damage, content] of [
  ["empty", ""],
  ["torn", '{"machineId":"m-0000'],
  ["full of zeros", "\0".repeat(64)],
  ["another machine's", '{"machineId":"m-00000002","workerId":"w-1"}'],
] as const) {
  test(`an entry that is ${damage} is unreadable, and the machine's files are kept aside with it`, async (t) => {
    const directory = await emptyDirectory(t);
    await writeEntry(directory, entry);
    await writeFile(join(directory, "journal", "m-00000001.json"), content);
    assert.deepEqual(await readJournal(directory), { entries: [], unreadable: ["m-00000001"] });
    const machine = machineDirectory(directory, entry.machineId);
    await mkdir(machine, { recursive: true });
    await writeFile(join(machine, "rootfs-1.qcow2"), "the disk");

    const kept = await setMachineAside(directory, entry.machineId);

    assert.ok(kept !== undefined);
    assert.match(kept, /\/machines\/lost\+found\/m-00000001-\d+$/);
    assert.equal(await readFile(join(kept, "rootfs-1.qcow2"), "utf8"), "the disk");
    assert.equal(await readFile(join(kept, "journal-entry.json"), "utf8"), content);
    assert.deepEqual(await readJournal(directory), { entries: [], unreadable: [] });
  });
}

test("an unreadable entry of a machine without files is removed", async (t) => {
  const directory = await emptyDirectory(t);
  await writeEntry(directory, entry);
  await writeFile(join(directory, "journal", "m-00000001.json"), "");
  assert.equal(await setMachineAside(directory, entry.machineId), undefined);
  assert.deepEqual(await readJournal(directory), { entries: [], unreadable: [] });
});

test("writes of one entry at the same time happen in the order of the calls", async (t) => {
  const directory = await emptyDirectory(t);
  await Promise.all(Array.from({ length: 20 }, (_, at) => writeEntry(directory, { ...entry, ephemeral: at === 19 })));
  assert.deepEqual(await readEntries(directory), [{ ...entry, ephemeral: true }]);
});

test("whenever the power fails, an entry whose write has resolved is readable, and the files that it names are there", async (t) => {
  const files = new RecordedFiles(await emptyDirectory(t));
  const { root } = files;
  const machine = machineDirectory(root, entry.machineId);
  await makeDurableDirectory(join(root, "machines"), 0o711, files);
  await writeEntry(root, entry, files);
  await files.makeDirectory(machine, 0o700);
  await files.write(join(machine, "rootfs-1.qcow2"), "the disk");
  // QEMU flushes what its guest flushes.
  await files.flush(join(machine, "rootfs-1.qcow2"));
  const first = { ...entry, machine: { nextLayer: 2 } as JournaledMachine };
  await writeEntry(root, first, files);
  files.mark("first");
  const second = { ...entry, machine: { nextLayer: 3 } as JournaledMachine };
  await writeEntry(root, second, files);
  files.mark("second");

  const cuts = files.powerCuts();
  assert.ok(cuts.length > 10, `${cuts.length} states`);
  for (const { tree, marks } of cuts) {
    await onDisk(tree, async (directory) => {
      const { entries } = await readJournal(directory);
      const found = entries[0]?.machine?.nextLayer;
      const allowed = marks.has("second") ? [3] : marks.has("first") ? [2, 3] : [undefined, 2];
      assert.ok(allowed.includes(found), `${String(found)} of ${JSON.stringify(tree)}`);
      if (found === undefined) return;
      const disk = join(machineDirectory(directory, entry.machineId), "rootfs-1.qcow2");
      assert.equal(await readFile(disk, "utf8"), "the disk", JSON.stringify(tree));
    });
  }
});
