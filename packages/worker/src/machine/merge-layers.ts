import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import { allFiles, type DiskFiles } from "#snapshots/manifest.ts";
import { readChains } from "./capture-machine.ts";
import type { Host } from "./host.ts";
import type { LiveMachine } from "./live-machine.ts";
import { layerNumber } from "./machine-files.ts";

/** Layers that only one machine uses, before merging them is worth the copying. Each hibernation and checkpoint adds one. */
const maxOwnLayers = 8;

/**
 * Starts a background merge of disks that have many layers. Layers that snapshots or other machines share
 * stay. `journal` records the machine's new layers.
 */
export function mergeLayers(live: LiveMachine, journal: () => Promise<void>, host: Host): void {
  if (!live.hasProcess || live.merging.busy || live.vm.capturing?.merge === undefined) return;
  const long = live.layers.files.disks.filter(({ layers }) => layers.length > maxOwnLayers);
  if (long.length === 0) return;
  live.merging.start(async (signal) => {
    try {
      for (const disk of long) await mergeDisk(live, disk, signal);
      await readChains(live);
      const unused = await unusedLayers(live);
      if (unused.length === 0) return;
      await journal();
      // The journal no longer names the merged layers.
      for (const file of unused) await rm(join(live.directory.path, file), { force: true });
    } catch (error) {
      if (isSandboxError(error, "canceled")) return;
      host.log("warn", "cannot merge the layers of a machine's disks", { machine: live.id, ...describeError(error) });
    }
  });
}

/** Layers in the machine's directory that are in no chain, also those that an interrupted merge or capture left. */
async function unusedLayers({ directory, layers }: LiveMachine): Promise<readonly string[]> {
  const used = new Set([...allFiles(layers.files), ...layers.tops]);
  return (await readdir(directory.path)).filter((file) => !Number.isNaN(layerNumber(file)) && !used.has(file));
}

async function mergeDisk(live: LiveMachine, { name, layers }: DiskFiles, signal: AbortSignal): Promise<void> {
  const path = (file: string): string => join(live.directory.path, file);
  const shared = await Promise.all(layers.map(async ({ file }) => (await stat(path(file))).nlink > 1));
  // A shared layer needs every layer below it.
  const keep = shared.lastIndexOf(true) + 1;
  if (layers.length - keep <= maxOwnLayers) return;
  const top = live.layers.topOf(name);
  const base = layers[keep - 1]?.file;
  const request = { disk: name, top: path(top), base: base === undefined ? undefined : path(base) };
  await live.vm.capturing?.merge?.(request, signal);
}
