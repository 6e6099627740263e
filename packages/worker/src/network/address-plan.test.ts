import assert from "node:assert/strict";
import { test } from "node:test";
import { slotNames } from "./address-plan.ts";

test("every slot has its own addresses and names, which fit the limits of the kernel", () => {
  const seen = new Set<string>();
  for (let slot = 0; slot < 16_384; slot += 1) {
    const { hostAddress, outerAddress, hostCable, namespace } = slotNames(slot);
    for (const address of [hostAddress, outerAddress]) {
      assert.match(address, /^10\.213(\.(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){2}$/);
    }
    for (const name of [hostAddress, outerAddress, hostCable, namespace]) {
      assert.equal(seen.has(name), false);
      seen.add(name);
    }
    // IFNAMSIZ is 16 with the closing zero.
    assert.ok(hostCable.length < 16);
  }
});
