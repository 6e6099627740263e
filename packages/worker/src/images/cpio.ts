export interface CpioEntry {
  /** The path without a leading slash. A directory comes before its entries. */
  readonly path: string;
  readonly kind: "directory" | "file" | "symlink";
  /** Permission bits. */
  readonly mode: number;
  /** A file's bytes or a symlink's target. */
  readonly content?: Uint8Array;
}

const typeBits = { directory: 0o040000, file: 0o100000, symlink: 0o120000 } as const;
const trailer = "TRAILER!!!";

/**
 * An archive in the format that the kernel unpacks at boot ("newc", Documentation/driver-api/early-userspace/
 * buffer-format.rst). Owners and times are 0 and inodes are counted, so equal entries make equal bytes.
 */
export function cpioArchive(entries: readonly CpioEntry[]): Uint8Array {
  const parts = entries.flatMap((entry, index) => record(entry, index + 1));
  parts.push(...record({ path: trailer, kind: "file", mode: 0 }, 0));
  return Buffer.concat(parts);
}

function record({ path, kind, mode, content = new Uint8Array() }: CpioEntry, inode: number): Uint8Array[] {
  const name = Buffer.from(`${path}\0`);
  const links = kind === "directory" ? 2 : 1;
  const fields = [
    ...[inode, path === trailer ? 0 : typeBits[kind] | mode, 0, 0, links, 0, content.length],
    ...[0, 0, 0, 0, name.length, 0],
  ];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`);
  return [header, name, padding(header.length + name.length), content, padding(content.length)];
}

/** The header with the name, and the content, each end at a multiple of four bytes. */
function padding(length: number): Uint8Array {
  return new Uint8Array((4 - (length % 4)) % 4);
}
