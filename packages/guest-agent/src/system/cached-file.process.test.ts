import assert from "node:assert/strict";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { cachedFile } from "./cached-file.ts";

test("a file is parsed once, and again after it was written, replaced, removed or created", async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-cached-"));
  try {
    const path = join(directory, "file");
    const others = join(directory, "other");
    let parses = 0;
    const read = cachedFile(path, (text) => {
      parses += 1;
      return text;
    });
    const becomes = async (expected: string): Promise<void> => {
      const giveUp = performance.now() + 20_000;
      while (read() !== expected && performance.now() < giveUp) await sleep(5);
      assert.equal(read(), expected);
    };
    assert.equal(read(), "");
    await writeFile(path, "made");
    await becomes("made");
    await writeFile(path, "written");
    await becomes("written");
    await writeFile(others, "replaced");
    await rename(others, path);
    await becomes("replaced");
    await sleep(50);
    const before = parses;
    for (let times = 0; times < 100; times += 1) read();
    assert.equal(parses, before);
    await rm(path);
    await becomes("");
  } finally {
    await rm(directory, { recursive: true });
  }
});
