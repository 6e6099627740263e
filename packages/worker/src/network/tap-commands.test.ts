import assert from "node:assert/strict";
import { test } from "node:test";
import { hostCommands, slotNames } from "./tap-commands.ts";

test("every slot has its own address block", () => {
  const seen = new Set<string>();
  for (let slot = 0; slot < 16_384; slot += 1) {
    const { hostAddress, outerAddress, hostCable } = slotNames(slot);
    for (const address of [hostAddress, outerAddress]) {
      assert.match(address, /^10\.213(\.(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){2}$/);
      assert.equal(seen.has(address), false);
      seen.add(address);
    }
    // IFNAMSIZ is 16 with the closing zero.
    assert.ok(hostCable.length < 16);
  }
});

test("the host's side of a slot", () => {
  assert.equal(
    hostCommands(slotNames(65)),
    "link add osbv65 type veth peer name up0 netns osb-65\naddr add 10.213.1.5/30 dev osbv65\nlink set osbv65 up",
  );
});
