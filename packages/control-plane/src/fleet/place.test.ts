import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { type Candidate, neededMib, place } from "./place.ts";

const candidate: fc.Arbitrary<Omit<Candidate, "id">> = fc.record({
  refusal: fc.option(fc.constant("it is cordoned"), { nil: undefined, freq: 4 }),
  freeMemoryMib: fc.integer({ min: 0, max: 64_000 }),
  totalMemoryMib: fc.constant(64_000),
  freeDiskShare: fc.double({ min: 0, max: 1, noNaN: true }),
  starting: fc.nat(20),
  ready: fc.nat(4),
  hasTemplate: fc.boolean(),
});
const fleet = fc
  .array(candidate, { maxLength: 12 })
  .map((all) => all.map((each, index): Candidate => ({ ...each, id: `w${index}` })));
const memoryMib = fc.integer({ min: 128, max: 65_536 });

function canTake({ refusal, freeMemoryMib, freeDiskShare }: Candidate, memory: number): boolean {
  return refusal === undefined && freeMemoryMib >= neededMib(memory) && freeDiskShare >= 0.05;
}

test("a sandbox is placed whenever a worker has room and accepts sandboxes", () => {
  fc.assert(
    fc.property(fleet, memoryMib, (workers, memory) => {
      const { workerId, verdicts } = place(workers, { memoryMib: memory });
      const possible = workers.filter((each) => canTake(each, memory)).map(({ id }) => id);
      if (possible.length === 0) assert.equal(workerId, undefined);
      else assert.ok(possible.includes(workerId!));
      assert.deepEqual(
        verdicts.filter(({ score }) => score !== undefined).map((each) => each.workerId),
        possible,
        "every worker with room is judged, and every other one refused",
      );
    }),
  );
});

test("a sandbox with a snapshot goes only to a worker that has it", () => {
  fc.assert(
    fc.property(fleet, memoryMib, fc.nat(11), (workers, memory, index) => {
      const { workerId } = place(workers, { memoryMib: memory, snapshotOn: [`w${index}`] });
      const holder = workers[index];
      assert.equal(workerId, holder !== undefined && canTake(holder, memory) ? holder.id : undefined);
    }),
  );
});

test("the choice depends neither on the order of the workers nor on refused ones", () => {
  fc.assert(
    fc.property(fleet, memoryMib, (workers, memory) => {
      const { workerId } = place(workers, { memoryMib: memory });
      assert.equal(place(workers.toReversed(), { memoryMib: memory }).workerId, workerId);
      const possible = workers.filter((each) => canTake(each, memory));
      assert.equal(place(possible, { memoryMib: memory }).workerId, workerId);
    }),
  );
});

test("a burst of starts spreads over equal workers, and never promises a worker more memory than it has", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 60 }), memoryMib, (count, starts, memory) => {
      const workers = Array.from({ length: count }, (_, index): { -readonly [K in keyof Candidate]: Candidate[K] } => ({
        ...{ id: `w${index}`, freeMemoryMib: 16_000, totalMemoryMib: 16_000, freeDiskShare: 0.5 },
        ...{ starting: 0, ready: 2, hasTemplate: true },
      }));
      const refused = Array.from({ length: starts }).some(() => {
        const { workerId } = place(workers, { memoryMib: memory });
        const chosen = workers.find(({ id }) => id === workerId);
        if (chosen === undefined) return true;
        chosen.starting += 1;
        chosen.freeMemoryMib -= neededMib(memory);
        return false;
      });
      assert.ok(workers.every(({ freeMemoryMib }) => freeMemoryMib >= 0));
      if (refused) return;
      const counts = workers.map(({ starting }) => starting);
      assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, counts.join());
    }),
  );
});

test("a ready machine is preferred to a restore, and a restore to a boot", () => {
  const base = { freeMemoryMib: 8000, totalMemoryMib: 16_000, freeDiskShare: 0.5, starting: 0, ready: 0 };
  const boots = { ...base, id: "boots", hasTemplate: false };
  const restores = { ...base, id: "restores", hasTemplate: true };
  const ready = { ...base, id: "ready", ready: 1, hasTemplate: true };
  assert.equal(place([boots, restores, ready], { memoryMib: 1024 }).workerId, "ready");
  assert.equal(place([boots, restores], { memoryMib: 1024 }).workerId, "restores");
  assert.equal(place([{ ...restores, starting: 11 }, boots], { memoryMib: 1024 }).workerId, "boots");
});

test("the reason of a refusal names the shortage", () => {
  const worker = { id: "w", freeMemoryMib: 100, totalMemoryMib: 16_000, freeDiskShare: 0.5 };
  const { verdicts } = place([{ ...worker, starting: 0, ready: 0, hasTemplate: false }], { memoryMib: 1024 });
  assert.deepEqual(verdicts, [{ workerId: "w", reason: "it has 100 MiB of memory free, and the machine needs 768" }]);
});
