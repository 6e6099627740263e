import assert from "node:assert/strict";
import { chmod, chown, mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { SnapshotManifest } from "#snapshots/manifest.ts";
import { SnapshotStore } from "#snapshots/snapshot-store.ts";
import type { Host } from "#machine/host.ts";
import { OwnMemory } from "./own-memory.ts";

const withoutRoot = process.getuid?.() === 0 ? false : "only root gives files to another group";

test(
  "a memory base belongs to the snapshot's organization, whichever organization forks it",
  { skip: withoutRoot },
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "osb-own-memory-"));
    t.after(() => rm(directory, { recursive: true }));
    const owner = 2_000_000_007;
    const snapshots = new SnapshotStore(directory);
    await using unfinished = await snapshots.createUnfinished("a", "w-1");
    for (const name of ["memory.base", "memory.delta", "devices"]) {
      await writeFile(join(unfinished.directory, name), Buffer.alloc(4096, name));
    }
    await chown(join(unfinished.directory, "devices"), 0, owner);
    await chmod(join(unfinished.directory, "devices"), 0o440);
    const snapshot = await unfinished.publish({
      id: "a",
      shape: { vcpus: 1, memoryMib: 1, workspaceMib: 1 },
      files: { kernel: "kernel", initramfs: "initramfs", memoryBase: "memory.base", disks: [] },
      memory: {
        compatibility: "x",
        devices: { file: "devices", bytes: 4096, sha256: "" },
        delta: { file: "memory.delta", bytes: 64 * 2 ** 20, sha256: "" },
      },
    } as unknown as SnapshotManifest);
    const problems: string[] = [];
    const host = {
      ...{ snapshots, workerId: "w-1", memory: { overwrite: () => Promise.resolve() } },
      log: (_level: string, message: string, fields: object) => problems.push(`${message} ${JSON.stringify(fields)}`),
    } as unknown as Host;

    const ownMemory = new OwnMemory(host);
    for (let fork = 1; fork <= 3; fork += 1) ownMemory.forked(snapshot);
    await ownMemory[Symbol.asyncDispose]();

    assert.deepEqual(problems, []);
    assert.equal((await snapshots.find("a"))?.manifest.files.memoryBase, "memory.own");
    const { uid, gid, mode } = await stat(join(snapshot.directory, "memory.own"));
    assert.deepEqual([uid, gid, mode & 0o777], [0, owner, 0o440]);
  },
);
