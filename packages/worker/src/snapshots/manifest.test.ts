import assert from "node:assert/strict";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { decodeManifest, encodeManifest, type SnapshotManifest } from "./manifest.ts";

const manifest: SnapshotManifest = {
  id: "0a944a06-154a-4ddf-8747-2d95cec0a483",
  createdAt: "2026-01-01T00:00:00.000Z",
  image: "minimal",
  shape: { vcpus: 1, memoryMib: 1024, workspaceMib: 20_480 },
  network: "tap",
  hypervisor: { name: "qemu", version: "10.0.2" },
  frozen: true,
  files: {
    kernel: "kernel",
    initramfs: "initramfs",
    memoryBase: "memory.base",
    disks: [
      {
        name: "rootfs",
        base: "rootfs.base",
        layers: [{ file: "rootfs-1.qcow2", bytes: 3, sha256: "aa" }],
        writable: true,
      },
    ],
  },
  ownBytes: 12,
};

test("a manifest is read as it was written", () => {
  assert.deepEqual(decodeManifest(encodeManifest(manifest)), manifest);
});

test("a disk larger than its base needs a later format, which versions without such disks refuse", () => {
  const disks = manifest.files.disks.map((disk) => ({ ...disk, bytes: 2 ** 30 }));
  const larger = { ...manifest, files: { ...manifest.files, disks } };
  assert.match(encodeManifest(manifest), /"formatVersion": 1,/);
  assert.match(encodeManifest(larger), /"formatVersion": 2,/);
  assert.deepEqual(decodeManifest(encodeManifest(larger)), larger);
});

test("a chunked delta needs a later format, which versions without chunks refuse", () => {
  const stored = { file: "memory.delta", bytes: 9, sha256: "bb" };
  const devices = { file: "devices-1", bytes: 3, sha256: "cc" };
  const chunked = {
    ...manifest,
    memory: { compatibility: "x", devices, delta: { ...stored, chunked: true as const } },
  };
  assert.match(encodeManifest(chunked), /"formatVersion": 3,/);
  assert.deepEqual(decodeManifest(encodeManifest(chunked)), chunked);
  const plain = { ...manifest, memory: { compatibility: "x", devices, delta: stored } };
  assert.match(encodeManifest(plain), /"formatVersion": 1,/);
});

test("a manifest with any byte changed is refused", () => {
  const text = encodeManifest(manifest);
  for (let at = 0; at < text.length; at += 1) {
    const changed = `${text.slice(0, at)}${text[at] === "1" ? "2" : "1"}${text.slice(at + 1)}`;
    let read: SnapshotManifest;
    try {
      read = decodeManifest(changed);
    } catch (error) {
      assert.ok(isSandboxError(error, "incompatible"), `byte ${at}: ${String(error)}`);
      continue;
    }
    // White space outside of strings has no meaning.
    assert.deepEqual(read, manifest, `byte ${at}`);
  }
});

test("a manifest of a later format is refused", () => {
  const later = encodeManifest(manifest).replace('"formatVersion": 1', '"formatVersion": 4');
  assert.throws(
    () => decodeManifest(later),
    (error) => isSandboxError(error, "incompatible"),
  );
});
