import { rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { isOverlay } from "#disks/qcow2.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { together } from "#host/together.ts";
import type { DiskAttachment, LayerSwitch } from "#hypervisor/hypervisor.ts";
import type { DiskFiles, MachineFiles, StoredFile } from "#snapshots/manifest.ts";
import { layerName, layerNumber, makeLayer, type Owner } from "./machine-files.ts";

/**
 * The files of a machine's disks: complete layers, and over them one top of each writable disk, which takes the writes.
 * A capture puts a new top on each disk and completes the old one. All tops have the same number.
 */
export class LayerStack {
  #files: MachineFiles;
  #next: number;
  readonly #owner: Owner | undefined;

  /** `files`: without the tops, whose number is `next - 1`. `owner`: the user that writes to the tops. */
  constructor(files: MachineFiles, next: number, owner: Owner | undefined) {
    this.#files = files;
    this.#next = next;
    this.#owner = owner;
  }

  /** Makes the first tops of a machine over `files`, which are in `directory`. */
  static async create(files: MachineFiles, directory: string, owner: Owner | undefined): Promise<LayerStack> {
    const numbers = files.disks.flatMap(({ layers }) => layers.map(({ file }) => layerNumber(file)));
    const stack = new LayerStack(files, 1 + Math.max(0, ...numbers), owner);
    await stack.makeNext(directory);
    stack.#next += 1;
    return stack;
  }

  /** All files but the tops. */
  get files(): MachineFiles {
    return this.#files;
  }

  /** The number of the tops to come. */
  get next(): number {
    return this.#next;
  }

  /** File names of the tops. */
  get tops(): readonly string[] {
    return this.#writable.map(({ name }) => this.topOf(name));
  }

  /** File name of a writable disk's top. */
  topOf(disk: string): string {
    return layerName(disk, this.#next - 1);
  }

  /** File names of complete layers whose hash is still unknown. */
  get unhashed(): readonly string[] {
    return this.#files.disks.flatMap(({ layers }) =>
      layers.filter(({ sha256 }) => sha256 === "").map(({ file }) => file),
    );
  }

  /** The disks as a hypervisor attaches them. */
  attachments(directory: string): readonly DiskAttachment[] {
    return this.#files.disks.map(({ name, base, layers, writable }) => {
      const names = [...layers.map(({ file }) => file), ...(writable ? [this.topOf(name)] : [])];
      return { name, base: join(directory, base), layers: names.map((file) => join(directory, file)) };
    });
  }

  /** Makes empty layers for the next tops; {@link push} records that they have become the tops. */
  async makeNext(directory: string): Promise<readonly LayerSwitch[]> {
    return await together(
      this.#writable.map(async (disk) => {
        const { name } = disk;
        const next = join(directory, layerName(name, this.#next));
        await this.#makeTop(next, await bytesOf(disk, directory));
        return { disk: name, top: join(directory, this.topOf(name)), next };
      }),
    );
  }

  /** Records that the next layers are the tops. The old tops are complete; their hashes are unknown. */
  push(): void {
    const complete = (disk: string): StoredFile => unhashed(this.topOf(disk));
    this.#update((disk) => (disk.writable ? [...disk.layers, complete(disk.name)] : disk.layers));
    this.#next += 1;
  }

  /**
   * Records the chains that the hypervisor reports.
   * @throws `unavailable` for files that are no layers of the disk: a hypervisor that a guest has taken over may name any
   */
  follow(chains: ReadonlyMap<string, readonly string[]>): void {
    for (const [disk, files] of chains) for (const file of files) requireLayer(disk, basename(file));
    const tops = [...chains.values()].map((files) => layerNumber(files.at(-1) ?? ""));
    this.#update((disk) => {
      const complete = chains
        .get(disk.name)
        ?.slice(0, -1)
        .map((file) => basename(file));
      if (complete === undefined) return disk.layers;
      const known = new Map(disk.layers.map((layer) => [layer.file, layer]));
      return complete.map((file) => known.get(file) ?? unhashed(file));
    });
    this.#next = 1 + Math.max(...tops, this.#next - 1);
  }

  /** Records that a disk has been enlarged. */
  enlarge(disk: string, bytes: number): void {
    const disks = this.#files.disks.map((present) => (present.name === disk ? { ...present, bytes } : present));
    this.#files = { ...this.#files, disks };
  }

  /** Records the hashes of layers. */
  describe(known: ReadonlyMap<string, StoredFile>): void {
    this.#update((disk) => disk.layers.map((layer) => known.get(layer.file) ?? layer));
  }

  /**
   * Makes the stack of an ended machine bootable from the files in its directory. An interrupted capture may have
   * switched to tops that were never recorded: a complete file of the next number is in use, or empty. A power cut may
   * leave any top missing or incomplete. Nothing was flushed to such a top, so an empty one takes its place.
   */
  async recover(directory: string): Promise<void> {
    if (this.#writable.length === 0) return;
    const isWhole = async (disk: DiskFiles, number: number): Promise<boolean> =>
      await isOverlay(join(directory, layerName(disk.name, number)), await bytesOf(disk, directory));
    for (;;) {
      for (const disk of this.#writable) {
        if (await isWhole(disk, this.#next - 1)) continue;
        await this.#makeTop(join(directory, this.topOf(disk.name)), await bytesOf(disk, directory));
      }
      const areNextWhole = await Promise.all(this.#writable.map((disk) => isWhole(disk, this.#next)));
      // The guest may have flushed one disk only.
      if (!areNextWhole.some(Boolean)) return;
      this.push();
    }
  }

  get #writable(): MachineFiles["disks"] {
    return this.#files.disks.filter(({ writable }) => writable);
  }

  async #makeTop(file: string, bytes: number): Promise<void> {
    // A failed attempt may have left a file of this name.
    await rm(file, { force: true });
    await makeLayer(file, bytes, this.#owner);
  }

  #update(layersOf: (disk: MachineFiles["disks"][number]) => readonly StoredFile[]): void {
    const disks = this.#files.disks.map((disk) => ({ ...disk, layers: layersOf(disk) }));
    this.#files = { ...this.#files, disks };
  }
}

/** The size of a disk in the guest. */
async function bytesOf({ base, bytes }: DiskFiles, directory: string): Promise<number> {
  return bytes ?? (await stat(join(directory, base))).size;
}

/** Files with a disk of at least `bytes`. A disk never shrinks. */
export async function withDiskBytes(
  files: MachineFiles,
  disk: string,
  bytes: number,
  directory: string,
): Promise<MachineFiles> {
  const disks = await Promise.all(
    files.disks.map(async (present) => {
      if (present.name !== disk || (await bytesOf(present, directory)) >= bytes) return present;
      return { ...present, bytes };
    }),
  );
  return { ...files, disks };
}

/** A layer's number has few digits: a capture a second for a century has ten. */
function requireLayer(disk: string, file: string): void {
  const number = layerNumber(file);
  if (number < 1e10 && file === layerName(disk, number)) return;
  throw new SandboxError("unavailable", `the machine's process reports ${JSON.stringify(file)} as a layer of ${disk}`);
}

/** A complete layer whose content has not been hashed yet. */
function unhashed(file: string): StoredFile {
  return { file, bytes: 0, sha256: "" };
}
