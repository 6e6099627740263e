import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { dataRanges } from "#host/kernel/libc.ts";

/** The content of a file when it was made, as hashes. Its holes cost nothing to record or to compare. */
export interface ContentRecord {
  readonly bytes: number;
  /**
   * SHA-256 over the blocks of 64 KiB that are not all zeros, each after its number, and over the size at the end;
   * numbers are 64 bits, little-endian. How the file system stores the zeros makes no difference.
   */
  readonly sparseSha256: string;
  /** Pages of 4 KiB that are compared when the file is used. */
  readonly sample: { readonly offsets: readonly number[]; readonly sha256: string };
}

const blockBytes = 64 * 1024;
const pageBytes = 4096;
const zeroBlock = Buffer.alloc(blockBytes);

/** The unit of reading: hashing one takes about a millisecond of the event loop. */
const chunkBytes = 2 ** 20;

/** Enough to find a file that was cut off, emptied or exchanged, and few enough to read when a sandbox starts. */
const sampledPages = 16;

/** Reads a whole file. `pause` runs between chunks, so that other work comes first. */
export async function recordContent(file: FileHandle, pause?: () => Promise<void>): Promise<ContentRecord> {
  const { size } = await file.stat();
  const hash = createHash("sha256");
  const blocks: number[] = [];
  for await (const { number, content } of nonZeroBlocks(file, size, pause)) {
    blocks.push(number);
    hash.update(int64(number)).update(content);
  }
  const offsets = spread(blocks, sampledPages).map((block, at) => offsetIn(block, at, size));
  return {
    bytes: size,
    sparseSha256: hash.update(int64(size)).digest("hex"),
    sample: { offsets, sha256: await hashSample(file, offsets) },
  };
}

/** Compares the size and the sampled pages. @throws the errors of opening and reading the file */
export async function matchesSample(path: string, record: ContentRecord): Promise<boolean> {
  await using file = await open(path);
  const { size } = await file.stat();
  return size === record.bytes && (await hashSample(file, record.sample.offsets)) === record.sample.sha256;
}

async function* nonZeroBlocks(
  file: FileHandle,
  size: number,
  pause: (() => Promise<void>) | undefined,
): AsyncGenerator<{ readonly number: number; readonly content: Buffer }> {
  const chunk = Buffer.allocUnsafe(chunkBytes);
  let done = 0;
  for (const [start, end] of dataRanges(file.fd, size)) {
    // Data may begin and end within a block, which is read once.
    const first = Math.max(done, start - (start % blockBytes));
    const last = Math.min(size, Math.ceil(end / blockBytes) * blockBytes);
    for (let at = first; at < last;) {
      const length = Math.min(chunkBytes, last - at);
      const { bytesRead } = await file.read(chunk, 0, length, at);
      if (bytesRead < length) throw new Error("the file became shorter while it was read");
      for (let begin = 0; begin < length; begin += blockBytes) {
        const content = chunk.subarray(begin, Math.min(begin + blockBytes, length));
        if (content.compare(zeroBlock, 0, content.length) === 0) continue;
        yield { number: (at + begin) / blockBytes, content };
      }
      at += length;
      await pause?.();
    }
    done = Math.max(done, last);
  }
}

async function hashSample(file: FileHandle, offsets: readonly number[]): Promise<string> {
  const pages = await Promise.all(
    offsets.map(async (offset) => {
      const page = Buffer.alloc(pageBytes);
      const { bytesRead } = await file.read(page, 0, pageBytes, offset);
      return page.subarray(0, bytesRead);
    }),
  );
  const hash = createHash("sha256");
  for (const page of pages) hash.update(int64(page.length)).update(page);
  return hash.digest("hex");
}

/** At most `count` of `values`, at equal distances, with the first and the last. */
function spread(values: readonly number[], count: number): readonly number[] {
  if (values.length <= count) return values;
  return Array.from({ length: count }, (_, at) => values[Math.round((at * (values.length - 1)) / (count - 1))]!);
}

/** Another page of the block for each sample; the last block may be shorter. */
function offsetIn(block: number, at: number, size: number): number {
  const start = block * blockBytes;
  const pages = Math.ceil(Math.min(blockBytes, size - start) / pageBytes);
  return start + ((at * 5) % pages) * pageBytes;
}

function int64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(value));
  return bytes;
}
