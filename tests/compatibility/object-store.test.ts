import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { DirectoryStore } from "../../packages/worker/src/object-store/directory-store.ts";
import { RemoteSnapshots } from "../../packages/worker/src/remote-snapshots/remote-snapshots.ts";
import { SnapshotStore } from "../../packages/worker/src/snapshots/snapshot-store.ts";

/** A stored snapshot as release 0.1.0 writes it. It is never written again. */
interface Recorded {
  readonly snapshotId: string;
  /** Hexadecimal. Absent: the objects are not encrypted. */
  readonly key?: string;
  /** Contents in base64, by the keys of the objects. */
  readonly objects: Readonly<Record<string, string>>;
  /** Contents as text, by the names of the snapshot's files. */
  readonly files: Readonly<Record<string, string>>;
}

for (const variant of ["plain", "encrypted"] as const) {
  test(`a stored snapshot of 0.1.0 is fetched, ${variant}`, async () => {
    const directory = await mkdtemp(join(tmpdir(), "osb-compatibility-"));
    try {
      const file = join(import.meta.dirname, "object-store", `0.1.0-${variant}.json`);
      const recorded = JSON.parse(await readFile(file, "utf8")) as Recorded;
      for (const [key, content] of Object.entries(recorded.objects)) {
        const path = join(directory, "store", key);
        await mkdir(dirname(path), { recursive: true });
        await writeFile(path, Buffer.from(content, "base64"));
      }
      const snapshots = new SnapshotStore(join(directory, "snapshots"));
      const remote = new RemoteSnapshots({
        store: await DirectoryStore.open(join(directory, "store")),
        key: recorded.key === undefined ? undefined : Buffer.from(recorded.key, "hex"),
        ...{ workerId: "w-1", snapshots, templates: new SnapshotStore(join(directory, "templates")) },
        verifier: { verify: () => Promise.resolve() },
        memory: { hash: () => Promise.resolve({ bytes: 0, sha256: "" }), verifyChunks: () => Promise.resolve() },
      });

      await remote.fetch(recorded.snapshotId, () => {}, new AbortController().signal);

      const found = await snapshots.find(recorded.snapshotId);
      assert.equal(found?.manifest.image, "minimal");
      for (const [name, text] of Object.entries(recorded.files)) {
        // The files are sparse: most of each is zeros.
        const content: string = await readFile(join(found.directory, name), "utf8");
        assert.equal(content.replaceAll("\0", ""), text, name);
      }
    } finally {
      await rm(directory, { recursive: true });
    }
  });
}
