import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, copyFile, mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand } from "#host/run-command.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { DiskLayers } from "./disk-layers.ts";
import { diskNodes, layerNode } from "./disk-nodes.ts";
import { QmpClient } from "./qmp-client.ts";

const program = "qemu-storage-daemon";
const skip = await runCommand("find QEMU's storage daemon", [program, "--version"]).then(
  () => false,
  () => `this host has no ${program}`,
);

test("the chain of a disk with a hundred layers is read, before and after a switch", { skip }, async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-layers-"));
  const undo = new AsyncDisposableStack();
  t.after(() => undo.disposeAsync());
  undo.defer(() => rm(directory, { recursive: true }));
  const base = join(directory, "base.raw");
  await writeFile(base, "");
  await truncate(base, 2 ** 20);
  const layers = Array.from({ length: 100 }, (_, index) => join(directory, `workspace-${index + 1}.qcow2`));
  const next = join(directory, "workspace-101.qcow2");
  await runCommand("create a layer", ["qemu-img", "create", "-q", "-f", "qcow2", layers[0]!, "1M"]);
  for (const layer of [...layers.slice(1), next]) await copyFile(layers[0]!, layer);

  const socket = join(directory, "qmp.sock");
  const disk = { name: "workspace", base, layers };
  const daemon = spawn(
    program,
    [
      ...diskNodes(disk).flatMap((node) => ["--blockdev", JSON.stringify(node)]),
      ...["--chardev", `socket,id=qmp,path=${socket},server=on,wait=off`, "--monitor", "chardev=qmp"],
    ],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  const ended = once(daemon, "exit");
  undo.defer(async () => {
    daemon.kill("SIGKILL");
    await ended;
  });
  const isListening = async (): Promise<boolean> =>
    await access(socket).then(
      () => true,
      () => false,
    );
  await eventually("the monitor listens", isListening, { withinMs: 60_000, everyMs: 20 });
  using qmp = await QmpClient.connect(socket, AbortSignal.timeout(60_000));

  let top = layers.at(-1)!;
  const open = new DiskLayers({ disks: [disk] }, { qmp, readTops: async () => () => layerNode(top) });
  assert.deepEqual([...(await open.readChains())], [["workspace", layers]]);
  await open.openLayers([next]);
  await open.switchLayers([{ disk: disk.name, top, next }]);
  top = next;
  assert.deepEqual([...(await open.readChains())], [["workspace", [...layers, next]]]);
});
