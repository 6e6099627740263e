import { type FileHandle, open } from "node:fs/promises";

/** One entry of a log of writes: Documentation/admin-guide/device-mapper/log-writes.rst of Linux. */
export interface LogEntry {
  readonly kind: "write" | "flush";
  /** Position on the disk, in bytes. */
  readonly at: number;
  readonly bytes: number;
  /** Position of the written bytes in the log. */
  readonly from: number;
  /** Position of the next entry in the log. */
  readonly end: number;
}

const magic = 0x6a736677736872n;
const flags = { flush: 1n, fua: 2n, discard: 4n, mark: 8n } as const;
const headerBytes = 32;

/** Reads the entries of a log of writes, in order. @throws when the file is not such a log, or has entries that cannot be replayed */
export async function readLog(file: string): Promise<readonly LogEntry[]> {
  await using handle = await open(file);
  const { size } = await handle.stat();
  const superblock = await readAt(handle, 0, headerBytes);
  if (superblock.readBigUInt64LE(0) !== magic) throw new Error(`${file} is not a log of writes`);
  const sectorBytes = superblock.readUInt32LE(24);
  const entries: LogEntry[] = [];
  for (let position = sectorBytes; position + headerBytes <= size;) {
    const header = await readAt(handle, position, headerBytes);
    const flag = header.readBigUInt64LE(16);
    if ((flag & (flags.discard | flags.mark)) !== 0n) throw new Error(`${file} has an entry with the flags ${flag}`);
    const bytes = Number(header.readBigUInt64LE(8)) * sectorBytes;
    const [at, from] = [Number(header.readBigUInt64LE(0)) * sectorBytes, position + sectorBytes];
    const end = from + bytes;
    if (bytes > 0) entries.push({ kind: "write", at, bytes, from, end });
    if ((flag & (flags.flush | flags.fua)) !== 0n) entries.push({ kind: "flush", at: 0, bytes: 0, from, end });
    position = end;
  }
  return entries;
}

/** Writes entries of the log `log` to the disk image `image`. */
export async function replay(log: string, entries: readonly LogEntry[], image: string): Promise<void> {
  await using source = await open(log);
  await using target = await open(image, "r+");
  for (const { kind, at, bytes, from } of entries) {
    if (kind === "write") await target.write(await readAt(source, from, bytes), 0, bytes, at);
  }
}

async function readAt(handle: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await handle.read(buffer, 0, length, position);
  if (bytesRead !== length) throw new Error(`the log ends after ${bytesRead} of ${length} bytes at ${position}`);
  return buffer;
}
