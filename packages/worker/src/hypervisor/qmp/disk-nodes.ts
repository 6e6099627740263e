import { basename, join } from "node:path";
import type { DiskAttachment } from "../hypervisor.ts";

/** A node of QEMU's block graph, as `-blockdev` and `blockdev-add` take it. */
export interface BlockNode {
  readonly "node-name": string;
  readonly [option: string]: unknown;
}

/** The nodes of a disk: the raw base, and over it each layer. The last one takes the writes of a writable disk. */
export function diskNodes({ name, base, layers }: DiskAttachment): readonly BlockNode[] {
  const bottom = { driver: "raw", "node-name": baseNode(name), "read-only": true, file: imageFile(base, true) };
  const nodes = layers.map((file, index) => {
    const backing = index === 0 ? bottom["node-name"] : layerNode(layers[index - 1]!);
    return { ...layerBlockdev(file, { writable: index === layers.length - 1 }), backing };
  });
  return [bottom, ...nodes];
}

/** A qcow2 layer as QEMU opens it. The command line names the layer below; the header of the file does not. */
export function layerBlockdev(file: string, { writable }: { readonly writable: boolean }) {
  return {
    driver: "qcow2",
    "node-name": layerNode(file),
    "read-only": !writable,
    ...(writable ? { discard: "unmap" } : {}),
    file: imageFile(file, !writable),
  };
}

export function baseNode(disk: string): string {
  return `${disk}-base`;
}

/** The block node of a layer: its file name, unique in the machine's directory. */
export function layerNode(file: string): string {
  return basename(file, ".qcow2");
}

/** The file of a layer in the machine's directory. */
export function layerFile(directory: string, node: string): string {
  return join(directory, `${node}.qcow2`);
}

/** Whether a block node is a layer of the disk. Other nodes belong to other disks or to QEMU itself. */
export function isLayerOf(disk: string, node: string): boolean {
  return node.startsWith(`${disk}-`) && !Number.isNaN(layerNumber(node));
}

/** The number in a layer's name; a newer layer has a higher one. NaN for a node that is not a layer. */
export function layerNumber(node: string): number {
  return Number(/-(\d+)$/.exec(node)?.[1]);
}

function imageFile(filename: string, readOnly: boolean): object {
  return { driver: "file", filename, ...(readOnly ? { "read-only": true } : { discard: "unmap" }) };
}
