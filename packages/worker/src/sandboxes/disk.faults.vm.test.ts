// The host's disk is full: case 10 of docs/faults.md.
import assert from "node:assert/strict";
import { chmod, mkdir, mkdtemp, open, readdir, rm, statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout } from "node:timers/promises";
import { runCommand } from "#host/run-command.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { newSnapshotId } from "@opensandbox/wire/ids.ts";
import { leftBehind } from "../testing/left-behind.ts";
import { startTestHost } from "../testing/test-host.ts";

const never = new AbortController().signal;
const noRoom = (error: unknown): boolean => isSandboxError(error, "no_capacity") || assert.fail(String(error));

/** A file system of 256 MiB. */
async function smallDisk(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-small-"));
  await chmod(directory, 0o711);
  const [image, mounted] = [join(directory, "image"), join(directory, "disk")];
  await mkdir(mounted);
  await using file = await open(image, "wx");
  await file.truncate(256 * 2 ** 20);
  await runCommand("make a file system", ["mkfs.ext4", "-q", "-m", "0", image]);
  await runCommand("mount it", ["mount", "-o", "loop", image, mounted]);
  t.after(async () => {
    await runCommand("unmount it", ["umount", mounted]);
    await rm(directory, { recursive: true });
  });
  await chmod(mounted, 0o711);
  return mounted;
}

async function freeBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize;
}

const root = process.getuid?.() === 0;

test(
  "10: a full disk refuses new sandboxes, damages none, and guests continue when it has room again",
  { skip: root ? false : "mounting a file system needs root" },
  async (t) => {
    {
      // Makes the template, if it is missing, where there is room for one.
      await using roomy = await startTestHost();
      await roomy.start();
    }
    const disk = await smallDisk(t);
    await using host = await startTestHost({ directory: disk });
    const filler = join(disk, "filler");
    /** Fills the disk up to `bytes`. */
    const leave = async (bytes: number): Promise<void> => {
      await rm(filler, { force: true });
      await runCommand("fill the disk", ["fallocate", "-l", String((await freeBytes(disk)) - bytes), filler]);
    };

    const { id, restoredFrom } = await host.start();
    assert.equal(restoredFrom, "memory");
    await host.shell(id, "head -c 5000000 /dev/urandom >/workspace/file; sha256sum /workspace/file >sum; sync");

    await t.test("no sandbox starts", async () => {
      await leave(10 * 2 ** 20);
      await assert.rejects(host.start(), noRoom);
    });

    await t.test("a capture without room leaves no snapshot, and the machine runs", async () => {
      for (const room of [10 * 2 ** 20, 64 * 2 ** 10]) {
        await leave(room);
        const snapshotId = newSnapshotId();
        const request = { snapshotId, contents: "memory and disks" } as const;
        await assert.rejects(host.worker.captureSandbox(id, request, never), noRoom);
        await assert.rejects(host.worker.hibernateSandbox(id, snapshotId, never), noRoom);
        assert.equal(await host.worker.findSnapshot(snapshotId), undefined);
        assert.deepEqual(await readdir(join(disk, "snapshots")), []);
        // The machine continues with its pending writes when there is room again.
        await rm(filler);
        await host.shell(id, "sha256sum -c --quiet sum");
      }
    });

    await t.test("a guest without room for a write waits for it", async () => {
      await leave(4 * 2 ** 20);
      const written = host.shell(
        id,
        "head -c 30000000 /dev/urandom >/workspace/big; sync; sha256sum /workspace/big >>sum; sync; echo done",
      );
      // The guest has used up the room, and has more to write.
      const deadline = performance.now() + 120_000;
      while ((await freeBytes(disk)) > 2 ** 18) {
        assert.ok(performance.now() < deadline, "waited two minutes for the guest to fill the disk");
        await setTimeout(50);
      }
      await setTimeout(3000);
      await rm(filler);
      assert.equal(await written, "done");
    });

    await t.test("the sandbox hibernates and wakes with everything that it wrote", async () => {
      const snapshotId = newSnapshotId();
      await host.worker.hibernateSandbox(id, snapshotId, never);
      const woken = await host.start({ kind: "snapshot", snapshotId, identity: "same" }, { id });
      assert.equal(woken.restoredFrom, "memory");
      await host.worker.removeSnapshot(snapshotId);
      await host.shell(id, "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum -c --quiet sum");
      const complaints = await host.shell(
        id,
        "sudo dmesg | grep -iE 'ext4.*(error|warning|corrupt)|I/O error' || true",
      );
      assert.equal(complaints, "");
      await host.worker.stopSandbox(id);
      assert.deepEqual((await leftBehind(disk)).machines, []);
    });
  },
);
