import { stat } from "node:fs/promises";
import { join } from "node:path";
import { runCommand } from "#host/run-command.ts";
import { withMemoryBase } from "#snapshots/manifest.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Host } from "#machine/host.ts";
import { seal } from "#machine/machine-files.ts";
import { tenantOf } from "#machine/host-resources.ts";

/** From this many forks on, a base of the snapshot's own costs less than writing its delta into each fork. */
const minForks = 3;

/** A smaller delta is written into each fork in less time than a base would save. */
const minDeltaBytes = 8 * 2 ** 20;

/**
 * Gives a snapshot that is forked often a memory base of its own: its template's memory with the snapshot's delta written
 * in. Later forks map that file and share its pages.
 */
export class OwnMemory implements AsyncDisposable {
  readonly #host: Host;
  readonly #forks = new Map<string, number>();
  #making: Promise<void> | undefined;

  constructor(host: Host) {
    this.#host = host;
  }

  /** Counts a fork of the snapshot. A base is made in the background, one at a time. */
  forked(snapshot: StoredSnapshot): void {
    const { id, memory } = snapshot.manifest;
    if (memory?.delta === undefined || memory.delta.bytes < minDeltaBytes) return;
    // A base covers only the boot memory, and this guest had hotplugged memory.
    if (memory.growthMib !== undefined) return;
    const forks = (this.#forks.get(id) ?? 0) + 1;
    this.#forks.set(id, forks);
    if (forks < minForks || this.#making !== undefined) return;
    this.#forks.delete(id);
    this.#making = makeBase(snapshot, this.#host)
      .catch((error: unknown) => {
        this.#host.log("warn", "cannot make a memory base for a snapshot; its forks read its delta", {
          snapshot: id,
          ...describeError(error),
        });
      })
      .finally(() => {
        this.#making = undefined;
      });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#making;
  }
}

const baseName = "memory.own";

async function makeBase({ directory, manifest }: StoredSnapshot, host: Host): Promise<void> {
  const { files, memory, shape } = manifest;
  if (memory?.delta === undefined) return;
  using _held = host.snapshots.hold(manifest.id);
  await using unfinished = await host.snapshots.createUnfinished(`${manifest.id}-memory`, host.workerId);
  const made = join(unfinished.directory, baseName);
  // A reflink shares unchanged blocks where the file system has them; holes stay holes.
  const base = join(directory, files.memoryBase);
  await runCommand("copy a memory base", ["cp", "--sparse=always", "--reflink=auto", base, made]);
  const delta = { ...memory.delta, path: join(directory, memory.delta.file) };
  await host.memory.overwrite(delta, made, shape.memoryMib * 2 ** 20);
  // The forks of a public checkpoint may belong to another organization than the snapshot.
  const { gid } = await stat(join(directory, memory.devices.file));
  await seal(made, tenantOf(gid));
  const { delta: _, ...rest } = memory;
  const own = { ...manifest, files: await withMemoryBase(files, baseName, made), memory: rest };
  await host.snapshots.amend(manifest.id, own, { from: made, to: baseName });
}
