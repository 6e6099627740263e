import assert from "node:assert/strict";
import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { provideZeroMemory } from "./machine-files.ts";

test("machines that boot at the same time share one sparse memory base", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-zeros-"));
  t.after(() => rm(directory, { recursive: true }));
  for (const memoryMib of [64, 128, 256, 512]) {
    // Every request starts while the earlier ones are in progress.
    const files = Array.from({ length: 40 }, async (_, turns) => {
      for (let count = 0; count < turns; count += 1) await turn();
      return await provideZeroMemory(directory, memoryMib);
    });
    const [file = "", ...others] = await Promise.all(files);
    for (const other of others) assert.equal(other, file);
    const { size, blocks } = await stat(file);
    assert.deepEqual([size, blocks], [memoryMib * 2 ** 20, 0]);
  }
  assert.equal((await readdir(join(directory, "memory"))).length, 4);
});

test("memory of zeros that a power cut has left empty is made again", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-zeros-"));
  t.after(() => rm(directory, { recursive: true }));
  const file = await provideZeroMemory(directory, 64);
  await rm(file);
  await writeFile(file, "");
  assert.equal(await provideZeroMemory(directory, 64), file);
  assert.equal((await stat(file)).size, 64 * 2 ** 20);
});
