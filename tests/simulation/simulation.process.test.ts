import assert from "node:assert/strict";
import { suite, test } from "node:test";
import * as fc from "fast-check";
import { lossMs, type Shape, SimulatedFleet } from "./simulated-fleet.ts";

// Histories of a fleet: the real placement and lifecycle on simulated workers and a simulated clock. The seed decides every
// step and every delay. OPENSANDBOX_SIMULATION=large runs thousands of histories from another seed each time, and
// OPENSANDBOX_SIMULATION_SEED replays one that failed.

const isLarge = process.env["OPENSANDBOX_SIMULATION"] === "large";
const seed = Number(process.env["OPENSANDBOX_SIMULATION_SEED"] ?? (isLarge ? Date.now() % 2 ** 31 : 20_301));
const histories = Number(process.env["OPENSANDBOX_SIMULATION_HISTORIES"] ?? (isLarge ? 2000 : 10));

type Step =
  | { readonly kind: "create" | "server restarts" | "store fails" | "store answers" }
  | { readonly kind: "write" | "hibernate" | "wake" | "checkpoint" | "delete"; readonly sandbox: number }
  | {
      readonly kind:
        | "cut"
        | "mend"
        | "is cut off for long"
        | "worker restarts"
        | "host ends"
        | "host starts"
        | "machine ends";
      readonly worker: number;
    }
  | { readonly kind: "time passes"; readonly ms: number };

const worker = fc.nat(2);
const sandbox = fc.nat(5);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("create" as const) }) },
  {
    weight: 16,
    arbitrary: fc.record({
      kind: fc.constantFrom("write", "write", "hibernate", "wake", "checkpoint", "delete"),
      sandbox,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        "cut",
        "is cut off for long",
        "mend",
        "worker restarts",
        "host ends",
        "host starts",
        "machine ends",
      ),
      worker,
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom("server restarts", "store fails", "store answers") }) },
  {
    weight: 10,
    arbitrary: fc.record({ kind: fc.constant("time passes" as const), ms: fc.integer({ min: 50, max: 3000 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("time passes" as const), ms: fc.constant(400_000) }),
  },
);

async function take(fleet: SimulatedFleet, each: Step): Promise<void> {
  switch (each.kind) {
    case "create":
      return fleet.create();
    case "write":
    case "hibernate":
    case "wake":
    case "checkpoint":
    case "delete": {
      const id = fleet.ids[each.sandbox % Math.max(1, fleet.ids.length)];
      if (id !== undefined) fleet[each.kind](id);
      return;
    }
    case "time passes":
      return await fleet.pass(each.ms);
    case "store fails":
      fleet.storeAnswers = false;
      return;
    case "store answers":
      fleet.storeAnswers = true;
      return;
    case "server restarts":
      await fleet.endServer();
      return await fleet.startServer();
    case "cut":
      return fleet.workers[each.worker]?.cut();
    case "is cut off for long":
      fleet.workers[each.worker]?.cut();
      return await fleet.pass(lossMs);
    case "mend":
      return fleet.workers[each.worker]?.mend();
    case "worker restarts":
      return await fleet.restartWorker(each.worker);
    case "host ends":
      return await fleet.workers[each.worker]?.loseHost();
    case "host starts":
      return fleet.workers[each.worker]?.start();
    case "machine ends": {
      const host = fleet.workers[each.worker]?.host;
      const [id] = [...(host?.machines ?? [])].find(([, { running }]) => running) ?? [];
      if (id !== undefined) host?.crash(id, "the simulation ended it", "reset");
      return;
    }
  }
}

/** mulberry32: https://gist.github.com/tommyettinger/46a874533244883189143505d203312c */
function randomFrom(start: number): () => number {
  let state = start >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

suite(`a simulated fleet, seed ${seed}`, () => {
  test("whatever fails, no data is lost, no sandbox runs twice, nothing leaks, and every sandbox can be used", async () => {
    const shape: Shape = { workers: 3, workerMemoryMib: 6000, heartbeatMs: 2000, stepMs: 50 };
    const answers = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 60 }), fc.nat(), async (steps, chance) => {
        await using fleet = await SimulatedFleet.start(shape, randomFrom(chance));
        for (const each of steps) await take(fleet, each);
        await fleet.settle();
        for (const [answer, count] of fleet.answers) answers.set(answer, (answers.get(answer) ?? 0) + count);
      }),
      { seed, numRuns: histories, endOnFailure: !isLarge },
    );
    for (const name of ["create ok", "write ok", "hibernate ok", "delete ok"]) {
      assert.ok((answers.get(name) ?? 0) > 0, `${name}: ${JSON.stringify([...answers])}`);
    }
    if (isLarge) console.log(JSON.stringify(Object.fromEntries(answers)));
  });
});
