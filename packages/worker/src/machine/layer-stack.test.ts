import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isOverlay } from "#disks/qcow2.ts";
import type { MachineFiles } from "#snapshots/manifest.ts";
import { LayerStack } from "./layer-stack.ts";

const diskBytes = 2 ** 30;
const names = ["rootfs", "workspace"] as const;

const files: MachineFiles = {
  ...{ kernel: "kernel", initramfs: "initramfs", memoryBase: "memory" },
  disks: names.map((name) => ({ name, base: `${name}.base`, layers: [], writable: true })),
};

/** A machine with the tops 1, and a capture that has made the tops 2. */
async function interruptedCapture(): Promise<AsyncDisposable & { directory: string; recover(): Promise<LayerStack> }> {
  const directory = await mkdtemp(join(tmpdir(), "osb-layers-"));
  for (const name of names) {
    await writeFile(join(directory, `${name}.base`), "");
    await truncate(join(directory, `${name}.base`), diskBytes);
  }
  const stack = await LayerStack.create(files, directory, undefined);
  await stack.makeNext(directory);
  return {
    directory,
    async recover() {
      // The journal has the record of before the capture.
      const recorded = new LayerStack(files, 2, undefined);
      await recorded.recover(directory);
      return recorded;
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
}

/** Keeps the file's size, with zeros in place of unflushed bytes. */
async function loseContent(file: string, from = 0): Promise<void> {
  const { size } = await stat(file);
  await truncate(file, from);
  await truncate(file, size);
}

test("after a power cut, next layers whose content is lost are not used", async () => {
  await using machine = await interruptedCapture();
  for (const name of names) await loseContent(join(machine.directory, `${name}-2.qcow2`));
  assert.deepEqual((await machine.recover()).tops, ["rootfs-1.qcow2", "workspace-1.qcow2"]);
});

test("after a power cut, one disk may have data on its next layer while the other one's is lost", async () => {
  await using machine = await interruptedCapture();
  const { directory } = machine;
  const flushed = await readFile(join(directory, "rootfs-2.qcow2"));
  await loseContent(join(directory, "workspace-2.qcow2"));
  const stack = await machine.recover();
  assert.deepEqual(stack.tops, ["rootfs-2.qcow2", "workspace-2.qcow2"]);
  assert.deepEqual(await readFile(join(directory, "rootfs-2.qcow2")), flushed);
  assert.ok(await isOverlay(join(directory, "workspace-2.qcow2"), diskBytes));
  assert.deepEqual(
    stack.files.disks.map(({ layers }) => layers.map(({ file }) => file)),
    [["rootfs-1.qcow2"], ["workspace-1.qcow2"]],
  );
});

for (const [part, from] of [
  ["header", 0],
  ["refcount table", 2 ** 16],
  ["refcounts", 2 * 2 ** 16],
] as const) {
  test(`after a power cut, a top without its ${part} is replaced by an empty one`, async () => {
    await using machine = await interruptedCapture();
    const { directory } = machine;
    for (const name of names) await rm(join(directory, `${name}-2.qcow2`));
    await loseContent(join(directory, "rootfs-1.qcow2"), from);
    assert.ok(!(await isOverlay(join(directory, "rootfs-1.qcow2"), diskBytes)));
    assert.deepEqual((await machine.recover()).tops, ["rootfs-1.qcow2", "workspace-1.qcow2"]);
    assert.ok(await isOverlay(join(directory, "rootfs-1.qcow2"), diskBytes));
  });
}

test("files that are no layers of the disk are not taken from the machine's process", () => {
  const stack = new LayerStack(files, 2, undefined);
  const refused = [
    "agent.base",
    "workspace-1.qcow2",
    "rootfs-1e99.qcow2",
    "rootfs-99999999999.qcow2",
    "rootfs-01.qcow2",
    "",
  ];
  for (const file of refused) {
    assert.throws(() => stack.follow(new Map([["rootfs", [`/machine/${file}`, "/machine/rootfs-1.qcow2"]]])), {
      code: "unavailable",
    });
  }
  assert.deepEqual(stack.tops, ["rootfs-1.qcow2", "workspace-1.qcow2"]);
});
