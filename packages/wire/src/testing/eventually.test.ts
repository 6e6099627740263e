import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually, within } from "./eventually.ts";

test("eventually returns the first truthy result", async () => {
  let probes = 0;
  assert.equal(await eventually("the third probe", () => (++probes === 3 ? "found" : undefined)), "found");
});

test("eventually fails with what it waited for, also when a probe hangs", async () => {
  const failure = { message: "Waited 0 s in vain: a promise that nobody keeps" };
  await assert.rejects(
    eventually("a promise that nobody keeps", () => false, { withinMs: 20 }),
    failure,
  );
  const hangs = (): Promise<never> => new Promise(() => undefined);
  await assert.rejects(eventually("a promise that nobody keeps", hangs, { withinMs: 20 }), failure);
  await assert.rejects(within("a promise that nobody keeps", hangs(), 20), failure);
});

test("eventually passes on the error of a probe at once", async () => {
  const probe = (): never => {
    throw new Error("broken probe");
  };
  await assert.rejects(eventually("nothing", probe), /broken probe/);
});
