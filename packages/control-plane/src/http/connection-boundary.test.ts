import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { withinConnection } from "./connection-boundary.ts";

/** What a handler does to its connection and to the log. */
async function outcomeOf(work: () => unknown): Promise<{ closed: boolean; logged: readonly string[] }> {
  const logged: string[] = [];
  let closed = false;
  withinConnection({ destroy: () => (closed = true) }, (_level, message) => logged.push(message), work);
  await nextTurn();
  return { closed, logged };
}

test("an exception closes its own connection and is logged, whether thrown at once or later", async () => {
  const failing = [
    () => {
      throw new Error("at once");
    },
    () => Promise.reject(new Error("later")),
  ];
  for (const work of failing) {
    const { closed, logged } = await outcomeOf(work);
    assert.ok(closed);
    assert.equal(logged.length, 1);
    assert.match(logged[0] ?? "", /^defect: /);
  }
});

test("a handler may return any value", async () => {
  for (const value of [undefined, 0, 1, "text", {}, Promise.resolve(2)]) {
    assert.deepEqual(await outcomeOf(() => value), { closed: false, logged: [] });
  }
});
