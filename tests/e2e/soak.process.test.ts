// Many sandboxes of the fake hypervisor are created, used and deleted for a while. The server's memory stays flat, and no
// call gets slower.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Soak } from "./soak.ts";
import { spawnServer } from "./spawn-server.ts";

/** Ten minutes with 200 sandboxes: OPENSANDBOX_TEST_SOAK_SECONDS=600. */
const seconds = Number(process.env["OPENSANDBOX_TEST_SOAK_SECONDS"] ?? 40);
const sandboxes = seconds >= 300 ? 200 : 12;

test(`${sandboxes} sandboxes in use for ${seconds} s leave the server's memory and speed as they were`, async (t) => {
  await using server = await spawnServer({
    env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1", OPENSANDBOX_MAX_CAPACITY: "1000" },
  });
  const soak = new Soak(server, { sandboxes, seconds });
  await soak.run();
  for (const line of soak.report()) t.diagnostic(line);
  soak.assertFlat();
  assert.equal((await soak.call("GET", "?status=running")).length, 0);
});
