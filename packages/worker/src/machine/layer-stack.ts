import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { isOverlay } from "#disks/qcow2.ts";
import { together } from "#host/together.ts";
import type { DiskAttachment, NewLayer } from "#hypervisor/hypervisor.ts";
import type { MachineFiles, StoredFile } from "#snapshots/manifest.ts";
import { layerName, layerNumber, makeLayer, type Owner } from "./machine-files.ts";

/**
 * The files of a machine's disks: those that are complete and, over them, one of each disk that it writes to. Capturing
 * puts a new one on top, and what was the top is complete then.
 */
export class LayerStack {
  /** All but the tops. */
  files: MachineFiles;
  next: number;
  readonly #owner: Owner | undefined;

  constructor(files: MachineFiles, next: number, owner: Owner | undefined) {
    this.files = files;
    this.next = next;
    this.#owner = owner;
  }

  /** The overlays that are written to, by their names in the directory. */
  get tops(): readonly { readonly disk: string; readonly file: string }[] {
    return this.files.disks
      .filter(({ writable }) => writable)
      .map(({ name }) => ({ disk: name, file: layerName(name, this.next - 1) }));
  }

  /** The disks as a hypervisor takes them. */
  attachments(directory: string): readonly DiskAttachment[] {
    const tops = new Map(this.tops.map(({ disk, file }) => [disk, file]));
    return this.files.disks.map(({ name, base, layers }) => {
      const top = tops.get(name);
      const names = [...layers.map(({ file }) => file), ...(top === undefined ? [] : [top])];
      return { name, base: join(directory, base), layers: names.map((file) => join(directory, file)) };
    });
  }

  /** Makes the next layer of each disk that is written to: empty, and not in use before {@link push}. */
  async make(directory: string): Promise<readonly NewLayer[]> {
    const writable = this.files.disks.filter((disk) => disk.writable);
    return await together(
      writable.map(async ({ name, base }) => {
        const file = join(directory, layerName(name, this.next));
        // What an attempt that failed has left.
        await rm(file, { force: true });
        await makeLayer(file, (await stat(join(directory, base))).size, this.#owner);
        return { disk: name, file };
      }),
    );
  }

  /** The made layers are the tops now. What were the tops are complete, with their hashes yet to be known. */
  push(): readonly { readonly disk: string; readonly file: string }[] {
    const complete = this.tops;
    this.files = {
      ...this.files,
      disks: this.files.disks.map((disk) => {
        const layer = complete.find((top) => top.disk === disk.name);
        const layers = layer === undefined ? disk.layers : [...disk.layers, unhashed(layer.file)];
        return { ...disk, layers };
      }),
    };
    this.next += 1;
    return complete;
  }

  /** The machine has these layers, by their files' names, whatever was known of it; see `Capturing.reviewLayers`. */
  follow(layers: ReadonlyMap<string, readonly string[]>): void {
    this.files = {
      ...this.files,
      disks: this.files.disks.map((disk) => {
        const known = new Map(disk.layers.map((layer) => [layer.file, layer]));
        const complete = layers.get(disk.name)?.slice(0, -1);
        if (complete === undefined) return disk;
        return { ...disk, layers: complete.map((file) => known.get(file) ?? unhashed(file)) };
      }),
    };
    const tops = [...layers.values()].map((names) => layerNumber(names.at(-1) ?? ""));
    this.next = 1 + Math.max(...tops, this.next - 1);
  }

  /**
   * Makes the stack of a machine that has ended one that can be booted. A capture that was cut off may have put more
   * tops over the disks than is known: those that are there whole are in use, or empty. And a host that lost its power
   * may have lost a top, to which nothing was flushed then.
   */
  async recover(directory: string): Promise<void> {
    const writable = this.files.disks.filter((disk) => disk.writable);
    if (writable.length === 0) return;
    const isWhole = async (disk: string, base: string, number: number): Promise<boolean> =>
      await isOverlay(join(directory, layerName(disk, number)), (await stat(join(directory, base))).size);
    const allWhole = async (number: number): Promise<boolean> =>
      (await Promise.all(writable.map(({ name, base }) => isWhole(name, base, number)))).every(Boolean);
    while (await allWhole(this.next)) this.push();
    for (const { name, base } of writable) {
      if (await isWhole(name, base, this.next - 1)) continue;
      const file = join(directory, layerName(name, this.next - 1));
      await rm(file, { force: true });
      await makeLayer(file, (await stat(join(directory, base))).size, this.#owner);
    }
  }

  /** Layers whose hashes are not known yet. */
  get unhashed(): readonly string[] {
    return this.files.disks.flatMap(({ layers }) =>
      layers.filter(({ sha256 }) => sha256 === "").map(({ file }) => file),
    );
  }

  /** Now they are. */
  describe(known: ReadonlyMap<string, StoredFile>): void {
    this.files = {
      ...this.files,
      disks: this.files.disks.map((disk) => ({
        ...disk,
        layers: disk.layers.map((layer) => known.get(layer.file) ?? layer),
      })),
    };
  }

  /** The layers of a disk over the lowest `keep` are in its top now. Returns what they were. */
  merged(disk: string, keep: number): readonly string[] {
    const before = this.files.disks.find(({ name }) => name === disk)?.layers ?? [];
    this.files = {
      ...this.files,
      disks: this.files.disks.map((files) =>
        files.name === disk ? { ...files, layers: files.layers.slice(0, keep) } : files,
      ),
    };
    return before.slice(keep).map(({ file }) => file);
  }
}

/** A layer of which it is not known yet what is in it. */
function unhashed(file: string): StoredFile {
  return { file, bytes: 0, sha256: "" };
}
