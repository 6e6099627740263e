import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { newSandboxId, newSnapshotId, parseSandboxId } from "@opensandbox/wire/ids.ts";
import { hostnameOf, machineIdOf, macAddressOf } from "./guest-identity.ts";

suite("the identity of a guest", () => {
  const id = parseSandboxId("sb-1a2b3c4d");
  const snapshotId = newSnapshotId();

  test("is the same at every start, also of sandboxes from earlier versions", () => {
    assert.equal(machineIdOf(id), "7c45892ca31525bab7aa59fd5638bf85");
    assert.equal(macAddressOf(id), "02:2e:a0:d8:a6:55");
  });

  test("differs between many sandboxes", () => {
    const ids = Array.from({ length: 4096 }, (_, index) => `sb-${index.toString(16).padStart(8, "0")}`);
    assert.equal(new Set(ids.map(macAddressOf)).size, ids.length);
    assert.equal(new Set(ids.map(machineIdOf)).size, ids.length);
  });

  test("has a locally administered unicast address", () => {
    const first = Number.parseInt(macAddressOf(newSandboxId()).slice(0, 2), 16);
    assert.equal(first & 0b11, 0b10);
  });

  test("has the host name of images, a name of its own after a fork, and keeps its name after a wake", () => {
    assert.equal(hostnameOf({ id, from: { kind: "image", image: "default" } }), "sandbox");
    assert.equal(hostnameOf({ id, from: { kind: "snapshot", snapshotId, identity: "new" } }), "sandbox-1a2b3c4d");
    const longer = parseSandboxId("sb-0123456789abcdef");
    const fork = { id: longer, from: { kind: "snapshot", snapshotId, identity: "new" } } as const;
    assert.equal(hostnameOf(fork), "sandbox-0123456789abcdef");
    assert.equal(hostnameOf({ id, from: { kind: "snapshot", snapshotId, identity: "same" } }), undefined);
  });
});
