import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { claimSlot, leftOverSlots } from "#host/slots.ts";
import { runCommand } from "#host/run-command.ts";
import { joinHostNetwork, removeLeftOverNetworks } from "./host-network.ts";
import { slotNames } from "./tap-commands.ts";

const root = process.getuid?.() === 0;
const skip = root ? false : "network namespaces need root";

/** What of a slot can be seen on the host. */
async function traces(slot: number): Promise<readonly string[]> {
  const { namespace, hostCable } = slotNames(slot);
  const namespaces = await runCommand("list", ["ip", "netns", "list"]);
  const links = await runCommand("list", ["ip", "-o", "link"]);
  return [
    ...(namespaces.split(/\s/).includes(namespace) ? ["namespace"] : []),
    ...(links.includes(`${hostCable}@`) ? ["cable"] : []),
  ];
}

test("a slot's network comes and goes whole", { skip }, async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-net-"));
  t.after(() => rm(directory, { recursive: true }));
  await using slot = await claimSlot(directory);
  {
    await using tap = await joinHostNetwork(slot, "192.0.2.53");
    assert.deepEqual(await traces(slot.number), ["namespace", "cable"]);
    assert.ok(existsSync(tap.namespace));
    assert.match(await runCommand("list", ["nft", "list", "tables"]), /table inet opensandbox/);
  }
  assert.deepEqual(await traces(slot.number), []);
});

test("what a killed worker left is removed when its machine directory is gone", { skip }, async () => {
  const directory = await mkdtemp(join(tmpdir(), "osb-net-"));
  const slot = await claimSlot(directory);
  await joinHostNetwork(slot, "192.0.2.53");
  assert.deepEqual(await leftOverSlots(), []);

  await rm(directory, { recursive: true });
  await removeLeftOverNetworks();

  assert.deepEqual(await traces(slot.number), []);
  assert.deepEqual(await leftOverSlots(), []);
});
