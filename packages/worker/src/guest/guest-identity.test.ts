import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { newSandboxId, newSnapshotId, parseSandboxId } from "@opensandbox/wire/ids.ts";
import { hostnameOf, machineIdOf, macAddressOf } from "./guest-identity.ts";

suite("who a guest is", () => {
  const id = parseSandboxId("sb-1a2b3c4d");
  const snapshotId = newSnapshotId();

  test("is the same at each start, for as long as there are sandboxes of earlier versions", () => {
    assert.equal(machineIdOf(id), "7c45892ca31525bab7aa59fd5638bf85");
    assert.equal(macAddressOf(id), "02:2e:a0:d8:a6:55");
  });

  test("is another one for each of many sandboxes", () => {
    const ids = Array.from({ length: 4096 }, (_, index) => `sb-${index.toString(16).padStart(8, "0")}`);
    assert.equal(new Set(ids.map(macAddressOf)).size, ids.length);
    assert.equal(new Set(ids.map(machineIdOf)).size, ids.length);
  });

  test("has an address that is no vendor's and nobody's but one machine's", () => {
    const first = Number.parseInt(macAddressOf(newSandboxId()).slice(0, 2), 16);
    assert.equal(first & 0b11, 0b10);
  });

  test("has the images' name, one of its own as somebody new, and keeps it as the same", () => {
    assert.equal(hostnameOf({ id, from: { kind: "image", image: "default" } }), "sandbox");
    assert.equal(hostnameOf({ id, from: { kind: "snapshot", snapshotId, identity: "new" } }), "sandbox-1a2b3c4d");
    assert.equal(hostnameOf({ id, from: { kind: "snapshot", snapshotId, identity: "same" } }), undefined);
  });
});
