import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * The format of a memory delta, the difference to a base image:
 *
 * ```
 * pages    the content of all runs that are not zeros, one after the other
 * index    16 bytes for each run: u64 first page, u64 number of pages, whose highest bit marks a run of zeros
 * footer   "OSBDELTA", u32 version, u32 bytes of a page, u64 number of runs, u64 bytes of pages; little-endian
 * ```
 */
export interface PageRun {
  /** Counted in pages from the beginning of the memory. */
  readonly first: number;
  readonly count: number;
  readonly zero: boolean;
}

export const pageBytes = 4096;
export const footerBytes = 32;
const runBytes = 16;
const magic = "OSBDELTA";
const version = 1;
const zeroMark = 1n << 63n;

/** The index and the footer, which end the file. Pure. */
export function encodeTail(runs: readonly PageRun[]): Buffer {
  const tail = Buffer.alloc(runs.length * runBytes + footerBytes);
  let pages = 0;
  for (const [index, { first, count, zero }] of runs.entries()) {
    tail.writeBigUInt64LE(BigInt(first), index * runBytes);
    tail.writeBigUInt64LE(zero ? BigInt(count) | zeroMark : BigInt(count), index * runBytes + 8);
    if (!zero) pages += count;
  }
  const footer = tail.subarray(runs.length * runBytes);
  footer.write(magic, 0, "latin1");
  footer.writeUInt32LE(version, 8);
  footer.writeUInt32LE(pageBytes, 12);
  footer.writeBigUInt64LE(BigInt(runs.length), 16);
  footer.writeBigUInt64LE(BigInt(pages * pageBytes), 24);
  return tail;
}

/** The end of the pages and the number of runs in a file of `fileBytes`. @throws `incompatible` for other files */
export function readFooter(footer: Buffer, fileBytes: number): { readonly pagesEnd: number; readonly runs: number } {
  const runs = Number(footer.readBigUInt64LE(16));
  const pagesEnd = Number(footer.readBigUInt64LE(24));
  const whole =
    footer.toString("latin1", 0, 8) === magic &&
    footer.readUInt32LE(8) === version &&
    footer.readUInt32LE(12) === pageBytes &&
    pagesEnd + runs * runBytes + footerBytes === fileBytes;
  if (!whole)
    throw new SandboxError("incompatible", "the snapshot's memory file has an unknown format", {
      reason: "format",
    });
  return { pagesEnd, runs };
}

/** @throws `incompatible` for runs beyond `memoryPages` or out of order */
export function decodeRuns(index: Buffer, memoryPages: number): PageRun[] {
  const runs: PageRun[] = [];
  let end = 0;
  for (let at = 0; at < index.length; at += runBytes) {
    const first = Number(index.readBigUInt64LE(at));
    const marked = index.readBigUInt64LE(at + 8);
    const count = Number(marked & ~zeroMark);
    if (first < end || first + count > memoryPages) {
      throw new SandboxError(
        "incompatible",
        "the snapshot's memory file lists pages beyond the machine's memory, or out of order",
        {
          reason: "format",
        },
      );
    }
    end = first + count;
    runs.push({ first, count, zero: (marked & zeroMark) !== 0n });
  }
  return runs;
}
