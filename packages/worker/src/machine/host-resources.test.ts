import assert from "node:assert/strict";
import { test } from "node:test";
import { tenantGroupOf } from "./host-resources.ts";

test("the group of an organization comes from its number; without one it is that of earlier versions", () => {
  const [first, second] = [2 ** 24, 2 ** 24 + 1].map((organizationNumber) =>
    tenantGroupOf({ organizationId: "org-a", organizationNumber }),
  );
  assert.deepEqual([first, second], [2_016_777_216, 2_016_777_217]);
  // Private files of earlier versions have this group.
  assert.equal(tenantGroupOf({ organizationId: "org-default" }), 2_011_351_677);
});
