import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { DecayingCount, shareOut } from "./demand.ts";

test("a use counts half after each half-life", () => {
  const count = new DecayingCount(1000);
  assert.equal(count.at(0), 0);
  count.add(5000);
  assert.equal(count.at(5000), 1);
  assert.equal(count.at(6000), 0.5);
  count.add(6000);
  assert.equal(count.at(8000), 0.375);
});

test("each template gets one machine before any gets a second, those in higher demand first", () => {
  const templates = [
    { key: "seldom", demand: 1, neededMib: 100 },
    { key: "often", demand: 9, neededMib: 100 },
  ];
  assert.deepEqual(shareOut(templates, { perTemplate: 2, budgetMib: 1000 }), ["often", "seldom", "often", "seldom"]);
  assert.deepEqual(shareOut(templates, { perTemplate: 2, budgetMib: 300 }), ["often", "seldom", "often"]);
  assert.deepEqual(shareOut(templates, { perTemplate: 2, budgetMib: 100 }), ["often"]);
  assert.deepEqual(shareOut(templates, { perTemplate: 0, budgetMib: 1000 }), []);
});

test("ready machines stay within the memory for them, and no template has more than its number", () => {
  const template = fc.record({
    demand: fc.double({ min: 0, max: 100, noNaN: true }),
    neededMib: fc.integer({ min: 1, max: 900 }),
  });
  fc.assert(
    fc.property(fc.array(template, { maxLength: 12 }), fc.nat(4), fc.nat(3000), (all, perTemplate, budgetMib) => {
      const templates = all.map((each, index) => ({ ...each, key: `t${index}` }));
      const machines = shareOut(templates, { perTemplate, budgetMib });
      const needed = machines.map((key) => templates.find((each) => each.key === key)?.neededMib ?? assert.fail(key));
      assert.ok(needed.reduce((sum, mib) => sum + mib, 0) <= budgetMib);
      for (const { key } of templates) assert.ok(machines.filter((each) => each === key).length <= perTemplate);
    }),
  );
});
