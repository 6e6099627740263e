import assert from "node:assert/strict";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { type JournalEntry, readEntries, removeEntry, removeUnfinishedEntries, writeEntry } from "./journal.ts";

const entry: JournalEntry = { machineId: "m-00000001", workerId: "w-1", ephemeral: false };

async function emptyDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-journal-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

test("what was written is read, written over and removed", async (t) => {
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

test("an entry that was not written to its end does not count, and goes when its writer is gone", async (t) => {
  const directory = await emptyDirectory(t);
  await writeEntry(directory, entry);
  const journal = join(directory, "journal");
  for (const worker of ["w-1", "w-2"])
    await writeFile(join(journal, `m-00000003.${worker}.new`), '{"machineId":"m-000');
  assert.deepEqual(await readEntries(directory), [entry]);
  await removeUnfinishedEntries(directory, (id) => id === "w-1");
  assert.deepEqual((await readdir(journal)).toSorted(), ["m-00000001.json", "m-00000003.w-1.new"]);
});

test("an entry that a dying host has left empty still names the machine to remove", async (t) => {
  const directory = await emptyDirectory(t);
  await writeEntry(directory, entry);
  await writeFile(join(directory, "journal", "m-00000001.json"), "");
  assert.deepEqual(await readEntries(directory), [{ machineId: "m-00000001", workerId: "", ephemeral: true }]);
});
