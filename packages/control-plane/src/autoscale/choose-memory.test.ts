import assert from "node:assert/strict";
import { suite, test } from "node:test";
import * as fc from "fast-check";
import { chooseMemory, type MemoryLoad } from "./choose-memory.ts";

const range = { memoryMib: 1024, minMib: 512, maxMib: 4096 };
const low: MemoryLoad = { use: 0.1, pressure: 0, calmMs: 300_000 };

suite("the memory that a load asks for", () => {
  for (const [what, load, mib] of [
    ["nothing changes while a part is in use", { ...low, use: 0.6 }, 1024],
    ["use makes it grow", { ...low, use: 0.86 }, 1536],
    ["pressure makes it grow", { ...low, pressure: 10 }, 1536],
    ["a low load makes it shrink after five minutes", low, 512],
    ["a low load makes it shrink to no less than twice of what is used", { ...low, use: 0.35 }, 768],
    ["a low load of a moment changes nothing", { ...low, calmMs: 299_999 }, 1024],
    ["a little pressure keeps it from shrinking", { ...low, pressure: 1 }, 1024],
  ] as const) {
    test(what, () => {
      assert.equal(chooseMemory(range, load), mib);
    });
  }

  test("a size outside the range comes into it", () => {
    assert.equal(chooseMemory({ ...range, memoryMib: 256 }, { ...low, calmMs: 0 }), 512);
    assert.equal(chooseMemory({ ...range, memoryMib: 8192 }, { ...low, use: 0.95 }), 4096);
  });

  test("every size is within the range and a multiple of 128, and a steady load reaches a size that stays", () => {
    const steps = fc.integer({ min: 2, max: 512 }).map((count) => count * 128);
    fc.assert(
      fc.property(steps, steps, steps, fc.integer({ min: 0, max: 70_000 }), (start, one, other, usedMib) => {
        const bounds = { minMib: Math.min(one, other), maxMib: Math.max(one, other) };
        const sizes = [start];
        for (let round = 0; round < 40; round += 1) {
          const memoryMib = sizes.at(-1)!;
          const load = { use: usedMib / memoryMib, pressure: 0, calmMs: 300_000 };
          sizes.push(chooseMemory({ ...bounds, memoryMib }, load));
        }
        for (const mib of sizes.slice(1)) {
          assert.ok(mib >= bounds.minMib && mib <= bounds.maxMib && mib % 128 === 0, `${mib}`);
        }
        assert.equal(new Set(sizes.slice(-5)).size, 1, sizes.join(" "));
      }),
    );
  });
});
