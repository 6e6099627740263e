import assert from "node:assert/strict";
import { machineIdOf, macAddressOf } from "../../packages/worker/src/guest/guest-identity.ts";
import type { Sandbox } from "./client.ts";
import { journalOf, type OurServer } from "./server.ts";

/** Maximum difference between a guest's clock and the host's, in milliseconds. */
const clockToleranceMs = 1000;

/** Every random id that a sandbox of this run has drawn. */
const drawn = new Set<string>();

/**
 * Asserts that a sandbox has everything that a start must provide. A start that skips a step would be faster and no
 * improvement. The check is not measured.
 */
export async function proveComplete(sandbox: Sandbox, server: OurServer, name = "sandbox"): Promise<void> {
  const before = Date.now();
  const script =
    "cat /proc/sys/kernel/random/uuid /etc/machine-id /sys/class/net/eth0/address; date +%s%N; hostname; id -un";
  const { exitCode, stdout, stderr } = await sandbox.exec.run(script);
  const after = Date.now();
  assert.equal(exitCode, 0, `${script}: ${stderr}`);
  const [uuid = "", machineId, mac, clock, hostname, user] = stdout.split("\n");
  assert.match(uuid, /^[0-9a-f-]{36}$/);
  assert.ok(!drawn.has(uuid), `two sandboxes have drawn the same random id ${uuid}`);
  drawn.add(uuid);
  assert.equal(machineId, machineIdOf(sandbox.sandboxId), "the machine id is not the sandbox's own");
  assert.equal(mac, macAddressOf(sandbox.sandboxId), "the MAC address is not the sandbox's own");
  const guest = Number(clock) / 1e6;
  const off = guest < before ? before - guest : Math.max(0, guest - after);
  assert.ok(off <= clockToleranceMs, `the guest's clock is ${off.toFixed(0)} ms off`);
  assert.deepEqual([hostname, user], [name, "sandbox"]);
  const entry = (await journalOf(server)).find((found) => found.sandbox?.id === sandbox.sandboxId);
  assert.ok(entry?.machine !== undefined, `the journal has no running machine for ${sandbox.sandboxId}`);
}
