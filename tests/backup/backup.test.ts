import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
  chmod,
  copyFile,
  link,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, suite, test } from "node:test";
import {
  backUp,
  type BackedUp,
  readConfig,
  restoreBackup,
  type Restored,
  type ServerConfig,
} from "@opensandbox/server";
import { openDatabase } from "../../packages/control-plane/src/database/database.ts";
import { claimWorker } from "../../packages/worker/src/host/worker-lock.ts";
import { recordContent } from "../../packages/worker/src/host/storage/content-record.ts";
import { SnapshotStore } from "../../packages/worker/src/snapshots/snapshot-store.ts";
import type { SnapshotManifest } from "../../packages/worker/src/snapshots/manifest.ts";
import { releases } from "../compatibility/releases.ts";

// The rows of an earlier version's database name these snapshots, of a hibernated sandbox and of a checkpoint. A third
// sandbox is running.
const hibernated = "3e2a9b7e-30a5-4a6c-9d58-2f0b7e0f7a01";
const checkpoint = "3e2a9b7e-30a5-4a6c-9d58-2f0b7e0f7a02";

suite("a backup", () => {
  let root: string;
  let config: ServerConfig;
  const inData = (...names: string[]): string => join(config.dataDirectory, ...names);
  const inBackup = (...names: string[]): string => join(root, "backups", "one", ...names);

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "osb-backup-"));
    config = readConfig({ OPENSANDBOX_DATA_DIR: join(root, "data") });
    await mkdir(inData());
    await copyFile(releases[0]!.file("opensandbox.sqlite"), inData("opensandbox.sqlite"));
    await writeFile(inData("api-key"), "osb_key\n", { mode: 0o600 });
    await mkdir(inData("images", "base-1"), { recursive: true });
    await mkdir(inData("images", ".unfinished-2"));
    await writeFile(inData("images", "base-1", "rootfs"), "image");
    await writeSnapshot(hibernated, true);
    await writeSnapshot(checkpoint, false);
  });
  afterEach(() => rm(root, { recursive: true }));

  /** A snapshot whose base is shared: by a hard link, and with `linked` by a symbolic link to another directory. */
  async function writeSnapshot(id: string, linked: boolean): Promise<void> {
    const store = new SnapshotStore(inData("snapshots"));
    await using unfinished = await store.createUnfinished(id, "w-1");
    const path = (name: string): string => join(unfinished.directory, name);
    const shared = join(root, "shared");
    // A hole of 4 MiB.
    await writeFile(shared, "base");
    await truncate(shared, 4 * 2 ** 20);
    if (linked) await symlink(shared, path("rootfs.base"));
    else await link(shared, path("rootfs.base"));
    for (const name of ["kernel", "initramfs", "memory.base"]) await writeFile(path(name), `${name} of ${id}`);
    await chmod(path("memory.base"), 0o440);
    await writeFile(path("rootfs-1.qcow2"), `layer of ${id}`);
    await using base = await open(shared);
    const layer = { file: "rootfs-1.qcow2", ...(await stored(path("rootfs-1.qcow2"))) };
    const delta = { file: "memory.delta", bytes: 5, sha256: sha256("delta") };
    await writeFile(path("memory.delta"), "delta");
    await writeFile(path("devices"), "devices");
    await unfinished.publish({
      id,
      files: {
        ...{ kernel: "kernel", initramfs: "initramfs", memoryBase: "memory.base" },
        contents: [{ file: "rootfs.base", ...(await recordContent(base)) }],
        disks: [{ name: "rootfs", base: "rootfs.base", layers: [layer], writable: true }],
      },
      memory: { compatibility: "x", devices: { file: "devices", ...(await stored(path("devices"))) }, delta },
    } as unknown as SnapshotManifest);
  }

  const backUpNow = (options: Partial<Parameters<typeof backUp>[1]> = {}): Promise<BackedUp> =>
    backUp(
      config,
      { target: inBackup(), databaseOnly: false, snapshots: "link", images: false, onProgress: () => {}, ...options },
      AbortSignal.timeout(60_000),
    );

  const restoreNow = (options: Partial<Parameters<typeof restoreBackup>[1]> = {}): Promise<Restored> =>
    restoreBackup(
      config,
      { source: inBackup(), force: false, transfer: "link", dryRun: false, onProgress: () => {}, ...options },
      AbortSignal.timeout(60_000),
    );

  /** Every file below a directory with its content, mode and space on the disk. */
  async function filesIn(directory: string): Promise<Readonly<Record<string, object>>> {
    const entries = await readdir(directory, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
    return Object.fromEntries(
      await Promise.all(
        files.toSorted().map(async (file) => {
          const { mode, size } = await stat(file);
          return [file.slice(directory.length + 1), { mode, size, sha256: sha256(await readFile(file)) }];
        }),
      ),
    );
  }

  async function idsIn(file: string): Promise<readonly string[]> {
    await using database = await openDatabase(file);
    return (await database.selectFrom("sandboxes").select("id").orderBy("id").execute()).map(({ id }) => id);
  }

  for (const snapshots of ["link", "copy"] as const) {
    test(`by ${snapshots} of an earlier version's data directory restores every row and file after its loss`, async () => {
      const before = await filesIn(inData("snapshots"));
      const made = await backUpNow({ snapshots, images: true });
      assert.deepEqual(made.contents.onlyInMachines, [{ id: "sb-00000001", state: "running" }]);
      assert.deepEqual([made.contents.hibernated, made.contents.checkpoints, made.snapshots], [1, 1, 2]);
      assert.deepEqual(made.missing, []);
      assert.equal(made.copiedBytes > 0, snapshots === "copy");
      assert.deepEqual(await readdir(join(root, "backups")), ["one"]);
      assert.equal((await stat(inBackup())).mode & 0o777, 0o700);

      await rm(inData(), { recursive: true });
      await rm(join(root, "shared"));
      const restored = await restoreNow({ transfer: snapshots });
      assert.deepEqual([restored.snapshots, restored.missing, restored.replaced], [2, [], undefined]);
      assert.deepEqual(await filesIn(inData("snapshots")), before);
      assert.equal(await readFile(inData("api-key"), "utf8"), "osb_key\n");
      assert.deepEqual(await readdir(inData("images")), ["base-1"]);
      // The shared base is one file with a hole.
      const bases = await Promise.all(
        [hibernated, checkpoint].map((id) => stat(inData("snapshots", id, "rootfs.base"))),
      );
      assert.equal(bases[0]?.ino, bases[1]?.ino);
      assert.ok(bases[0]!.blocks * 512 < 2 ** 20);
      assert.deepEqual(await idsIn(inData("opensandbox.sqlite")), ["sb-00000001", "sb-00000002"]);
      assert.deepEqual(
        (await readdir(inData())).filter((name) => /unfinished|progress|replaced/.test(name)),
        [],
      );
    });
  }

  test("of one file has the database alone, and restoring it leaves snapshots and machines", async () => {
    const target = join(root, "copy.sqlite");
    await backUpNow({ target, databaseOnly: true });
    assert.equal((await stat(target)).mode & 0o777, 0o600);
    const before = await filesIn(inData("snapshots"));
    await writeFile(inData("opensandbox.sqlite"), "damaged");
    await mkdir(inData("machines", "m-1"), { recursive: true });
    const { replaced = "" } = await restoreNow({ source: target, force: true });
    assert.deepEqual(await idsIn(inData("opensandbox.sqlite")), ["sb-00000001", "sb-00000002"]);
    assert.equal(await readFile(join(replaced, "opensandbox.sqlite"), "utf8"), "damaged");
    assert.deepEqual(await readdir(replaced), ["opensandbox.sqlite"]);
    assert.deepEqual(await filesIn(inData("snapshots")), before);
    assert.deepEqual(await readdir(inData("machines")), ["m-1"]);
  });

  test("of an earlier version is restored as that version wrote it, after this one has migrated a copy", async () => {
    await backUpNow();
    await rm(inData(), { recursive: true });
    await restoreNow();
    assert.deepEqual(await readFile(inData("opensandbox.sqlite")), await readFile(inBackup("opensandbox.sqlite")));
  });

  test("does not replace the content of a data directory without force, which moves it aside", async () => {
    await backUpNow();
    await writeFile(inData("api-key"), "osb_newer\n");
    await assert.rejects(restoreNow(), {
      code: "invalid_argument",
      message:
        `${inData()} has content (opensandbox.sqlite, api-key, snapshots): use --force to move it aside, or set ` +
        "OPENSANDBOX_DATA_DIR",
    });
    assert.equal(await readFile(inData("api-key"), "utf8"), "osb_newer\n");
    const { replaced = "" } = await restoreNow({ force: true });
    assert.equal(await readFile(inData("api-key"), "utf8"), "osb_key\n");
    assert.equal(await readFile(join(replaced, "api-key"), "utf8"), "osb_newer\n");
    assert.deepEqual((await readdir(replaced)).toSorted(), ["api-key", "opensandbox.sqlite", "snapshots"]);
  });

  test("is not restored while a server runs on the data directory, even with force", async () => {
    await backUpNow();
    await using _ = await claimWorker(inData("workers"), "w-1");
    await assert.rejects(restoreNow({ force: true }), {
      message: `a server runs on ${inData()}: stop it before you restore`,
    });
    // Verifying is possible while a server runs, and changes nothing.
    assert.equal((await restoreNow({ dryRun: true })).snapshots, 2);
  });

  const damages: Readonly<Record<string, [file: string, message: RegExp]>> = {
    "a layer": [`snapshots/${hibernated}/rootfs-1.qcow2`, /rootfs-1\.qcow2 does not match its manifest/],
    "a shared base": [`snapshots/${checkpoint}/rootfs.base`, /rootfs\.base does not match its manifest/],
    "a memory delta": [`snapshots/${checkpoint}/memory.delta`, /memory\.delta does not match its manifest/],
    "a snapshot's manifest": [`snapshots/${checkpoint}/manifest.json`, /its manifest/],
    "the database": ["opensandbox.sqlite", /opensandbox\.sqlite does not match its manifest/],
    "the backup's manifest": ["manifest.json", /is not a whole backup: its manifest\.json/],
  };
  for (const [what, [file, message]] of Object.entries(damages)) {
    test(`with damage to ${what} is refused before anything is replaced`, async () => {
      await backUpNow({ snapshots: "copy" });
      const before = await filesIn(inData());
      await flipByte(inBackup(file));
      await assert.rejects(restoreNow({ force: true }), message);
      assert.deepEqual(await filesIn(inData()), { ...before, "backup.lock": (await filesIn(inData()))["backup.lock"] });
    });
  }

  test("with a missing or shortened file is refused before anything is replaced", async () => {
    await backUpNow({ snapshots: "copy" });
    await truncate(inBackup("snapshots", hibernated, "kernel"), 3);
    await assert.rejects(restoreNow({ force: true }), /kernel has 3 bytes instead of/);
    await rm(inBackup("snapshots", hibernated, "kernel"));
    await assert.rejects(restoreNow({ force: true }), /ENOENT.*kernel/);
    assert.deepEqual(await idsIn(inData("opensandbox.sqlite")), ["sb-00000001", "sb-00000002"]);
  });

  test("names snapshots that are missing, and hibernated sandboxes without them", async () => {
    await rm(inData("snapshots", hibernated), { recursive: true });
    const { missing } = await backUpNow();
    assert.deepEqual(missing, [hibernated]);
    assert.deepEqual((await restoreNow({ force: true })).missing, [hibernated]);
  });

  test("is not disturbed by a server that removes a snapshot and its row meanwhile", async () => {
    const waking = (async () => {
      await new Promise((resolve) => setTimeout(resolve, 100));
      await using database = await openDatabase(inData("opensandbox.sqlite"));
      await database.updateTable("sandboxes").set({ state: "running", hibernation_snapshot_id: null }).execute();
    })();
    // The server removes the snapshot first, and then writes the row.
    await rename(inData("snapshots", hibernated), inData("snapshots", ".removed"));
    const made = await backUpNow();
    await waking;
    assert.deepEqual([made.missing, made.snapshots, made.contents.hibernated], [[], 1, 0]);
  });

  test("that is canceled leaves nothing at its target", async () => {
    const request = { target: inBackup(), databaseOnly: false, snapshots: "copy", images: false } as const;
    const ended = new AbortController();
    const onProgress = (step: string): void => {
      if (step === "copying snapshots") ended.abort(new Error("interrupted"));
    };
    await assert.rejects(backUp(config, { ...request, onProgress }, ended.signal), /interrupted/);
    assert.deepEqual(await readdir(join(root, "backups")), []);
    assert.deepEqual(
      (await readdir(inData())).filter((name) => name.includes("unfinished")),
      [],
    );
  });

  test("does not overwrite an earlier one", async () => {
    await backUpNow();
    await assert.rejects(backUpNow(), /exists: name a directory to make/);
  });

  test("whose restore was interrupted keeps servers from starting until the restore is repeated", async () => {
    const { refuseDuringRestore } = await import("../../packages/worker/src/backups/data-directory.ts");
    await backUpNow();
    await writeFile(inData("restore-in-progress"), "1\n");
    await mkdir(inData("restore.unfinished", "left"), { recursive: true });
    assert.throws(
      () => refuseDuringRestore(inData()),
      /has not ended: wait for it or, .* run 'osb admin restore' again/,
    );
    await restoreNow({ force: true });
    refuseDuringRestore(inData());
    assert.deepEqual(await idsIn(inData("opensandbox.sqlite")), ["sb-00000001", "sb-00000002"]);
  });
});

function sha256(content: string | Buffer): string {
  return createHash("sha256").update(content).digest("hex");
}

async function stored(file: string): Promise<{ readonly bytes: number; readonly sha256: string }> {
  const content = await readFile(file);
  return { bytes: content.length, sha256: sha256(content) };
}

async function flipByte(path: string): Promise<void> {
  await chmod(path, 0o600);
  await using file = await open(path, "r+");
  const { size } = await file.stat();
  // The damage lies outside the hole of the base, which is compared by samples.
  const at = size > 2 ** 20 ? 0 : Math.floor(size / 2);
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte[0]! ^= 1;
  await file.write(byte, 0, 1, at);
}
