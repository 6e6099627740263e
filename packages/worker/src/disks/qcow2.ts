import { open, stat } from "node:fs/promises";
import { together } from "#host/together.ts";

const magic = "QFI\xfb";
const clusterBits = 16;
const clusterBytes = 1 << clusterBits;

/**
 * Makes an empty copy-on-write overlay of the virtual size `bytes` in the new file `file`. The overlay names no backing
 * file, since QEMU's command line names the chain. It consists of four clusters, which are written without a process;
 * format: https://www.qemu.org/docs/master/interop/qcow2.html
 */
export async function createOverlay(file: string, bytes: number): Promise<void> {
  const handle = await open(file, "wx", 0o600);
  try {
    const clusters = overlayClusters(bytes);
    await together(clusters.map((cluster, index) => handle.write(cluster, 0, cluster.length, index * clusterBytes)));
    // The L1 table must have its full length on disk.
    await handle.truncate(overlayBytes(bytes));
  } finally {
    await handle.close();
  }
}

/**
 * Whether the file is a complete overlay of the virtual size `bytes`, with any layout. A power cut may leave zeros in
 * place of the header, the refcount table or the refcounts. Nothing was flushed to such a file, or they would be there.
 */
export async function isOverlay(file: string, bytes: number): Promise<boolean> {
  const size = (await stat(file).catch(() => undefined))?.size ?? 0;
  if (size < overlayBytes(bytes)) return false;
  await using handle = await open(file);
  const at = async (position: bigint, length: number): Promise<Buffer> =>
    (await handle.read(Buffer.alloc(length), 0, length, position)).buffer;
  const header = await at(0n, 56);
  if (header.toString("latin1", 0, 4) !== magic) return false;
  const refcountTable = header.readBigUInt64BE(48);
  const refcountBlock = (await at(refcountTable, 8)).readBigUInt64BE();
  // The first refcount is that of the header.
  return refcountTable > 0n && refcountBlock > 0n && (await at(refcountBlock, 8)).readBigUInt64BE() > 0n;
}

/** Header, refcount table and refcount block, each for the start of a cluster; the L1 table, of zeros, follows. Pure. */
export function overlayClusters(bytes: number): readonly Buffer[] {
  const header = Buffer.alloc(112);
  header.write(magic, 0, "latin1");
  header.writeUInt32BE(3, 4);
  header.writeUInt32BE(clusterBits, 20);
  header.writeBigUInt64BE(BigInt(bytes), 24);
  header.writeUInt32BE(l1Entries(bytes), 36);
  header.writeBigUInt64BE(BigInt(3 * clusterBytes), 40);
  header.writeBigUInt64BE(BigInt(clusterBytes), 48);
  header.writeUInt32BE(1, 56);
  // Refcounts of 2^4 bits; the header itself has 104 bytes and is followed by the end of its extensions.
  header.writeUInt32BE(4, 96);
  header.writeUInt32BE(104, 100);

  const refcountTable = Buffer.alloc(8);
  refcountTable.writeBigUInt64BE(BigInt(2 * clusterBytes));
  const used = overlayBytes(bytes) / clusterBytes;
  const refcounts = Buffer.alloc(2 * used);
  for (let cluster = 0; cluster < used; cluster += 1) refcounts.writeUInt16BE(1, 2 * cluster);
  return [header, refcountTable, refcounts];
}

function overlayBytes(bytes: number): number {
  const l1Clusters = Math.max(1, Math.ceil((l1Entries(bytes) * 8) / clusterBytes));
  return (3 + l1Clusters) * clusterBytes;
}

/** An L1 entry covers one cluster of L2 entries of 8 bytes each. */
function l1Entries(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / (clusterBytes * (clusterBytes / 8))));
}
