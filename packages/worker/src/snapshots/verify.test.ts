import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { ContentChecks } from "#host/storage/content-checks.ts";
import { recordContent } from "#host/storage/content-record.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SharedContent, SnapshotManifest } from "./manifest.ts";
import { MemoryThreads } from "./memory-threads.ts";
import type { StoredSnapshot } from "./snapshot-store.ts";
import { Verifier } from "./verify.ts";

const sharedNames = ["kernel", "initramfs", "memory.base", "rootfs.base"];

async function snapshot(t: TestContext): Promise<StoredSnapshot> {
  const directory = await mkdtemp(join(tmpdir(), "osb-verify-"));
  t.after(() => rm(directory, { recursive: true }));
  const contents: SharedContent[] = [];
  for (const file of sharedNames) {
    await writeFile(join(directory, file), Buffer.alloc(100_000, `${file} `));
    await using opened = await open(join(directory, file));
    contents.push({ file, ...(await recordContent(opened)) });
  }
  await writeFile(join(directory, "rootfs-1.qcow2"), "layer");
  const layer = { file: "rootfs-1.qcow2", bytes: 5, sha256: createHash("sha256").update("layer").digest("hex") };
  const files = {
    ...{ kernel: "kernel", initramfs: "initramfs", memoryBase: "memory.base", contents },
    disks: [{ name: "rootfs", base: "rootfs.base", layers: [layer], writable: true }],
  };
  return { directory, manifest: { id: "a", files } as unknown as SnapshotManifest };
}

async function flipFirstByte(path: string): Promise<void> {
  await using file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, 0);
  byte[0]! ^= 1;
  await file.write(byte, 0, 1, 0);
}

test("a flipped byte in any file refuses the snapshot", async (t) => {
  const stored = await snapshot(t);
  await using memory = new MemoryThreads();
  const newVerifier = (): Verifier => new Verifier(memory, new ContentChecks());
  await newVerifier().verify(stored);
  for (const file of [...sharedNames, "rootfs-1.qcow2"]) {
    const path = join(stored.directory, file);
    await flipFirstByte(path);
    await assert.rejects(
      newVerifier().verify(stored),
      (error) =>
        isSandboxError(error, "incompatible") &&
        error.details.reason === "damaged" &&
        error.message === `the snapshot is damaged: ${file} does not match its manifest`,
      file,
    );
    await flipFirstByte(path);
  }
  await newVerifier().verify(stored);
});

test("a missing file refuses the snapshot", async (t) => {
  for (const file of [...sharedNames, "rootfs-1.qcow2"]) {
    const stored = await snapshot(t);
    await using memory = new MemoryThreads();
    await rm(join(stored.directory, file));
    await assert.rejects(new Verifier(memory, new ContentChecks()).verify(stored), {
      message: `the snapshot is damaged: ${file} is missing`,
    });
  }
});

test("a snapshot of an earlier version, without records of its shared files, is usable", async (t) => {
  const { directory, manifest } = await snapshot(t);
  const { contents: _, ...files } = manifest.files;
  await using memory = new MemoryThreads();
  await new Verifier(memory, new ContentChecks()).verify({ directory, manifest: { ...manifest, files } });
});
