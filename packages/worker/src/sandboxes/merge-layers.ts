import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { DiskFiles } from "#snapshots/manifest.ts";
import type { Host } from "#machine/host.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import type { LiveSandbox } from "#sandboxes/live-sandbox.ts";
import { journal } from "#sandboxes/start-sandbox.ts";

/** So many layers that are a machine's alone are worth the copying: every hibernation and checkpoint adds one. */
const maxOwnLayers = 8;

/**
 * Begins to make the disks of a sandbox into short chains again, beside all else that happens to it, where they have
 * become long. What checkpoints or other machines share is left as it is.
 */
export function mergeLayers(sandbox: LiveSandbox, host: Host): void {
  const { live, request } = sandbox;
  if (!live.hasProcess || live.merging.busy || sandbox.busy) return;
  const long = live.layers.files.disks.filter(({ layers }) => layers.length > maxOwnLayers);
  if (long.length === 0) return;
  live.merging.start(async (signal) => {
    try {
      const merged: string[] = [];
      for (const disk of long) merged.push(...(await mergeDisk(live, disk, signal)));
      await journal(live, request, host);
      // What the journal names is there.
      for (const file of merged) await rm(join(live.directory.path, file), { force: true });
    } catch (error) {
      if (isSandboxError(error, "canceled")) return;
      host.log("warn", "layers of a disk could not be merged", { sandbox: request.id, ...describeError(error) });
    }
  });
}

/** Returns the files that the disk does not need any more. */
async function mergeDisk(
  live: LiveMachine,
  { name, layers }: DiskFiles,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const directory = live.directory.path;
  const shared = await Promise.all(layers.map(async ({ file }) => (await stat(join(directory, file))).nlink > 1));
  // Below a shared layer nothing can be taken away.
  const keep = shared.lastIndexOf(true) + 1;
  if (layers.length - keep <= maxOwnLayers) return [];
  const over = layers[keep - 1]?.file;
  await live.vm.capturing?.mergeLayers(name, over === undefined ? undefined : join(directory, over), signal);
  return live.layers.merged(name, keep);
}
