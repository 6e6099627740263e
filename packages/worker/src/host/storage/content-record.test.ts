import assert from "node:assert/strict";
import { mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { type ContentRecord, matchesSample, recordContent } from "./content-record.ts";

const mebibyte = 2 ** 20;

async function newPath(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-record-"));
  t.after(() => rm(directory, { recursive: true }));
  return join(directory, "file");
}

/** A file of `bytes` bytes whose parts are written at their offsets; the rest is a hole. */
async function writeSparse(path: string, bytes: number, parts: Readonly<Record<number, Buffer>>): Promise<void> {
  await using file = await open(path, "w");
  await file.truncate(bytes);
  for (const [offset, content] of Object.entries(parts)) await file.write(content, 0, content.length, Number(offset));
}

async function record(path: string): Promise<ContentRecord> {
  await using file = await open(path);
  return await recordContent(file);
}

test("a sparse file and a copy without holes have the same record", async (t) => {
  const path = await newPath(t);
  const bytes = 5 * mebibyte + 100;
  const parts = {
    70_000: Buffer.from("early"),
    [3 * mebibyte - 2]: Buffer.from("late"),
    [bytes - 3]: Buffer.from("end"),
  };
  await writeSparse(path, bytes, parts);
  const whole = Buffer.alloc(bytes);
  for (const [offset, content] of Object.entries(parts)) content.copy(whole, Number(offset));
  await writeFile(`${path}.copy`, whole);
  assert.deepEqual(await record(path), await record(`${path}.copy`));
});

test("the record of a large file of holes reads none of them", async (t) => {
  const path = await newPath(t);
  await writeSparse(path, 2 ** 40, { [2 ** 39]: Buffer.from("the middle") });
  const { bytes, sample } = await record(path);
  assert.equal(bytes, 2 ** 40);
  assert.deepEqual(sample.offsets, [2 ** 39]);
});

test("one flipped byte anywhere changes the whole hash, and in a sampled page the sample", async (t) => {
  const path = await newPath(t);
  const content = Buffer.alloc(3 * mebibyte + 7, "content that is not zero. ");
  await writeFile(path, content);
  const before = await record(path);
  assert.equal(before.sample.offsets.length, 16);
  assert.equal(await matchesSample(path, before), true);
  for (const at of [...before.sample.offsets, mebibyte + 5, content.length - 1]) {
    const flipped = Buffer.from(content);
    flipped[at]! ^= 1;
    await writeFile(path, flipped);
    assert.notEqual((await record(path)).sparseSha256, before.sparseSha256, `byte ${at}`);
    const isSampled = before.sample.offsets.some((offset) => at >= offset && at < offset + 4096);
    assert.equal(await matchesSample(path, before), !isSampled, `byte ${at}`);
  }
});

test("moved, shortened, extended and emptied content does not match", async (t) => {
  const path = await newPath(t);
  await writeSparse(path, mebibyte, { 0: Buffer.from("data") });
  const before = await record(path);
  await writeSparse(path, mebibyte, { 65_536: Buffer.from("data") });
  assert.notEqual((await record(path)).sparseSha256, before.sparseSha256);
  for (const bytes of [mebibyte - 1, mebibyte + 1, 0]) {
    await writeSparse(path, bytes, bytes === 0 ? {} : { 0: Buffer.from("data") });
    assert.notEqual((await record(path)).sparseSha256, before.sparseSha256, `${bytes} bytes`);
    assert.equal(await matchesSample(path, before), false, `${bytes} bytes`);
  }
});

test("an empty file has a record", async (t) => {
  const path = await newPath(t);
  await writeFile(path, "");
  const empty = await record(path);
  assert.deepEqual(empty.sample.offsets, []);
  assert.equal(await matchesSample(path, empty), true);
});
