import { join } from "node:path";
import { runCommand } from "#host/run-command.ts";
import { withMemoryBase } from "#snapshots/manifest.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Host } from "#machine/host.ts";
import { seal } from "#machine/machine-files.ts";
import { tenantOf } from "#machine/host-resources.ts";

/** From so many forks on it pays that they share the memory of their snapshot, and not only that of its template. */
const oftenForked = 3;

/** A smaller delta is written into each fork faster than a file of its own would be worth. */
const minDeltaBytes = 8 * 2 ** 20;

/**
 * Gives a snapshot that is forked often a base of its own: its template's memory with its delta written in. Forks from
 * then on map that file, share it with each other and have nothing to be written into them.
 */
export class OwnMemory implements AsyncDisposable {
  readonly #host: Host;
  readonly #forks = new Map<string, number>();
  #making: Promise<void> | undefined;

  constructor(host: Host) {
    this.#host = host;
  }

  /** A fork of the snapshot has started. What follows from that is done beside all else, one at a time. */
  forked(snapshot: StoredSnapshot, organizationId: string): void {
    const { id, memory } = snapshot.manifest;
    if (memory?.delta === undefined || memory.delta.bytes < minDeltaBytes) return;
    // A base is what a machine begins with, and its guest had more.
    if (memory.growthMib !== undefined) return;
    const forks = (this.#forks.get(id) ?? 0) + 1;
    this.#forks.set(id, forks);
    if (forks < oftenForked || this.#making !== undefined) return;
    this.#forks.delete(id);
    this.#making = makeBase(snapshot, organizationId, this.#host)
      .catch((error: unknown) => {
        this.#host.log("warn", "a snapshot keeps its memory as a delta", { snapshot: id, ...describeError(error) });
      })
      .finally(() => {
        this.#making = undefined;
      });
  }

  /** Settles when nothing is being made. */
  async settled(): Promise<void> {
    await this.#making;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#making;
  }
}

const baseName = "memory.own";

async function makeBase({ directory, manifest }: StoredSnapshot, organizationId: string, host: Host): Promise<void> {
  const { files, memory, shape } = manifest;
  if (memory?.delta === undefined) return;
  using _held = host.snapshots.hold(manifest.id);
  await using unfinished = await host.snapshots.begin(`${manifest.id}-memory`, host.workerId);
  const made = join(unfinished.directory, baseName);
  // Where the file system can, the copy shares what it does not change; holes stay holes.
  const base = join(directory, files.memoryBase);
  await runCommand("copy a memory base", ["cp", "--sparse=always", "--reflink=auto", base, made]);
  await host.memory.overwrite(join(directory, memory.delta.file), made, shape.memoryMib * 2 ** 20);
  await seal(made, tenantOf(organizationId));
  const { delta: _, ...rest } = memory;
  const own = { ...manifest, files: await withMemoryBase(files, baseName, made), memory: rest };
  await host.snapshots.amend(manifest.id, own, { from: made, to: baseName });
}
