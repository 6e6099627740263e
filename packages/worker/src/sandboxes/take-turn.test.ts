import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Admission, isShortOfMemory } from "#host/admission.ts";
import { StartQueue } from "./start-queue.ts";
import { takeTurn } from "./take-turn.ts";

const never = new AbortController().signal;

/** A host with one start at a time, and with ready machines that hold 800 MiB each. */
function stand(room: { freeMemoryMib: number; waiting?: number }) {
  const steps: string[] = [];
  const admission = new Admission(
    () => Promise.resolve({ freeMemoryMib: room.freeMemoryMib, freeDiskShare: 1 }),
    16_384,
  );
  const ready = {
    giveBack: async () => {
      await Promise.resolve();
      if ((room.waiting ?? 0) === 0) return false;
      room.waiting = (room.waiting ?? 0) - 1;
      room.freeMemoryMib += 800;
      return true;
    },
  };
  const entrance = { queue: new StartQueue(1), admission, ready };
  const take = (memoryMib: number, signal = never) =>
    takeTurn({ memoryMib, organizationId: "org" }, entrance, ({ step }) => steps.push(step), signal);
  return { steps, take };
}

test("ready machines give their memory to a sandbox that needs it, and no more than that", async () => {
  const room = { freeMemoryMib: 100, waiting: 3 };
  const { take, steps } = stand(room);
  using _ = await take(1024);
  assert.deepEqual(room, { freeMemoryMib: 900, waiting: 2 });
  assert.deepEqual(steps, []);
});

test("a sandbox that waits for memory says so, holds up no smaller one, and starts when there is some", async () => {
  const room = { freeMemoryMib: 1000 };
  const { take, steps } = stand(room);
  const large = take(8192);
  await eventually("it waits", () => steps.length > 0);
  assert.deepEqual(steps, ["waiting for 8192 MiB of the host's memory"]);
  room.freeMemoryMib = 4352;
  using _ = await large;
});

test("a sandbox that waits for its turn hears how many are ahead", async () => {
  const { take, steps } = stand({ freeMemoryMib: 8000 });
  const first = await take(256);
  const second = take(256);
  const third = take(256);
  await eventually("both wait", () => steps.length === 2);
  assert.deepEqual(
    steps,
    [0, 1].map((ahead) => `waiting for other sandboxes to start, ${ahead} ahead`),
  );
  first[Symbol.dispose]();
  (await second)[Symbol.dispose]();
  (await third)[Symbol.dispose]();
});

test("a sandbox whose caller leaves while it waits for memory takes nothing", async () => {
  const { take, steps } = stand({ freeMemoryMib: 500 });
  const left = new AbortController();
  const waiting = take(1024, left.signal);
  await eventually("it waits", () => steps.length > 0);
  left.abort();
  await assert.rejects(waiting, (error) => !isShortOfMemory(error));
  using _ = await take(256);
});
