import assert from "node:assert/strict";
import { chown, copyFile, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { makeDataDirectory, openTestWorker } from "../../packages/worker/src/testing/test-host.ts";
import { releases } from "./releases.ts";

const isRoot = process.getuid?.() === 0;

for (const release of releases) {
  test(`after a crash of the host, the disks of a sandbox that ran under ${release.name} are adopted`, async (t) => {
    const dataDirectory = await makeDataDirectory();
    t.after(() => rm(dataDirectory, { recursive: true }));
    const entryFile = release.file("journal-entry.json");
    const entry = JSON.parse(await readFile(entryFile, "utf8")) as {
      readonly machineId: string;
      readonly sandbox: { readonly id: string; readonly generation: number; readonly memoryMib: number };
    };
    await mkdir(join(dataDirectory, "journal"));
    await copyFile(entryFile, join(dataDirectory, "journal", `${entry.machineId}.json`));
    const machine = join(dataDirectory, "machines", entry.machineId);
    await mkdir(machine, { recursive: true });
    await writeFile(join(machine, "rootfs-4.qcow2"), "the top of a disk");
    // The directory belongs to the user of an earlier slot, which the next machine may get.
    if (isRoot) await chown(machine, 1_900_000_000, 1_900_000_000);

    const logged: string[] = [];
    const opened = await openTestWorker({
      dataDirectory,
      hypervisor: "fake",
      log: (level, message) => logged.push(`${level}: ${message}`),
    });
    const { id, generation, memoryMib } = entry.sandbox;
    assert.deepEqual(
      await opened.worker.listSandboxes(),
      [{ id, generation, memoryMib, running: false }],
      logged.join("\n"),
    );
    assert.deepEqual(await readdir(machine), ["rootfs-4.qcow2"]);
    if (isRoot) assert.equal((await stat(machine)).uid, 0, "no machine's user can enter the directory");
    await opened.release();
    await opened[Symbol.asyncDispose]();

    assert.equal(await readFile(join(machine, "rootfs-4.qcow2"), "utf8"), "the top of a disk");
  });
}
