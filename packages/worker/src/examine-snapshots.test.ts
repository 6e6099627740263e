import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { encodeManifest, type SnapshotManifest } from "#snapshots/manifest.ts";
import { examineSnapshots } from "./examine-snapshots.ts";
import type { WorkerOptions } from "./open-worker.ts";

const files = { kernel: "", initramfs: "", memoryBase: "", disks: [] };

function manifest(id: string): string {
  return encodeManifest({ id, image: "minimal", files, ownBytes: 1 } as unknown as SnapshotManifest);
}

/** The manifest of a version whose format this one does not know. */
function ofFormat(formatVersion: number, id: string): string {
  const { sha256: _, ...body } = JSON.parse(manifest(id)) as Record<string, unknown>;
  const changed = { ...body, formatVersion };
  const sha256 = createHash("sha256").update(JSON.stringify(changed)).digest("hex");
  return JSON.stringify({ ...changed, sha256 });
}

test("snapshots of an unknown format and damaged ones are listed, and sound ones are not", async () => {
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-examine-"));
  try {
    const stored = { "sn-1": manifest("sn-1"), "sn-2": ofFormat(99, "sn-2"), "sn-3": "{" };
    for (const [id, text] of Object.entries(stored)) {
      await mkdir(join(dataDirectory, "snapshots", id), { recursive: true });
      await writeFile(join(dataDirectory, "snapshots", id, "manifest.json"), text);
    }
    const problems = await examineSnapshots({ dataDirectory, hypervisor: "fake" } as WorkerOptions);
    const byId = Object.fromEntries(problems.map(({ id, problem }) => [id, problem]));
    assert.deepEqual(Object.keys(byId).toSorted(), ["sn-2", "sn-3"]);
    assert.match(byId["sn-2"] ?? "", /^the snapshot has format 99, and this version reads formats 1 to \d+$/);
    assert.equal(byId["sn-3"], "the snapshot is damaged: its manifest is not valid JSON");
  } finally {
    await rm(dataDirectory, { recursive: true });
  }
});

test("a data directory without snapshots has no problem, also where there is no hypervisor", async () => {
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-examine-"));
  try {
    const options = { dataDirectory, hypervisor: "qemu", qemuProgram: "/nonexistent" } as WorkerOptions;
    assert.deepEqual(await examineSnapshots(options), []);
  } finally {
    await rm(dataDirectory, { recursive: true });
  }
});
