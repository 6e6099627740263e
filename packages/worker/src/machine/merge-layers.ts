import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { Capturing, LayerMerge } from "#hypervisor/hypervisor.ts";
import { allFiles } from "#snapshots/manifest.ts";
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
  if (!live.hasProcess) return;
  const { capturing } = live.vm;
  const areAllShort = (): boolean => live.layers.files.disks.every(({ layers }) => layers.length <= maxOwnLayers);
  if (capturing === undefined || areAllShort()) return;
  live.merging.start(async (signal) => {
    // An earlier merge may have done it, or the machine has ended meanwhile.
    if (!live.hasProcess || areAllShort()) return;
    try {
      const merges = await mergesOf(live);
      if (merges.length > 0 && capturing.mergesInto === "below top") {
        await coverTops(live, capturing);
        await journal();
      }
      for (const merge of merges) await capturing.merge(merge, signal);
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

/** The merges of disks whose own layers are too many, into their present tops. */
async function mergesOf(live: LiveMachine): Promise<readonly LayerMerge[]> {
  const path = (file: string): string => join(live.directory.path, file);
  const merges: LayerMerge[] = [];
  for (const { name, layers, writable } of live.layers.files.disks) {
    if (!writable) continue;
    const shared = await Promise.all(layers.map(async ({ file }) => (await stat(path(file))).nlink > 1));
    // A shared layer needs every layer below it.
    const keep = shared.lastIndexOf(true) + 1;
    if (layers.length - keep <= maxOwnLayers) continue;
    const base = layers[keep - 1]?.file;
    merges.push({ disk: name, into: path(live.layers.topOf(name)), base: base === undefined ? undefined : path(base) });
  }
  return merges;
}

/** Puts new layers over the tops, which are then complete, while the guest runs. */
async function coverTops({ layers, directory }: LiveMachine, capturing: Capturing): Promise<void> {
  const switches = await layers.makeNext(directory.path);
  await capturing.openLayers(switches.map(({ next }) => next));
  await capturing.switchLayers(switches);
  layers.push();
}
