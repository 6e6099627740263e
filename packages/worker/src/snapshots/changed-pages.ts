import { closeSync, openSync, readSync } from "node:fs";
import { type AddressRanges, scanChangedPages } from "#host/kernel/libc.ts";
import type { GuestMemory, MemoryRegion } from "#hypervisor/guest-memory.ts";
import { pageBytes, type PageRun } from "./delta.ts";

/** Bytes copied at a time. */
export const copyBytes = 4 * 2 ** 20;

/** The pages that differ from the base, as address ranges. No range crosses from one region into another. */
export function changedRanges({ pid, regions }: GuestMemory): AddressRanges {
  const pagemap = openSync(`/proc/${pid}/pagemap`, "r");
  try {
    return regions.flatMap(
      ({ start, bytes }) => scanChangedPages(pagemap, start, start + bytes) ?? readPagemap(pagemap, start, bytes),
    );
  } finally {
    closeSync(pagemap);
  }
}

/** For older kernels: reads one word for each page (Documentation/admin-guide/mm/pagemap.rst). */
function readPagemap(pagemap: number, start: number, bytes: number): AddressRanges {
  const words = new BigUint64Array(bytes / pageBytes);
  const buffer = Buffer.from(words.buffer);
  for (let at = 0; at < buffer.length;) {
    at += readSync(pagemap, buffer, at, buffer.length - at, (start / pageBytes) * 8 + at);
  }
  const [file, swapped, present] = [1n << 61n, 1n << 62n, 1n << 63n];
  const ranges: [number, number][] = [];
  for (const [page, word] of words.entries()) {
    const changed = (word & swapped) !== 0n || ((word & present) !== 0n && (word & file) === 0n);
    if (!changed) continue;
    const address = start + page * pageBytes;
    const last = ranges.at(-1);
    if (last?.[1] === address) last[1] = address + pageBytes;
    else ranges.push([address, address + pageBytes]);
  }
  return ranges;
}

/** Cuts ranges into chunks of {@link copyBytes}. Pure: threads that share the ranges cut the same chunks. */
export function* chunksOf(ranges: AddressRanges): Generator<AddressRanges> {
  let chunk: [number, number][] = [];
  let room = copyBytes;
  for (const [start, end] of ranges) {
    for (let at = start; at < end;) {
      const to = Math.min(end, at + room);
      chunk.push([at, to]);
      room -= to - at;
      at = to;
      if (room > 0) continue;
      yield chunk;
      chunk = [];
      room = copyBytes;
    }
  }
  if (chunk.length > 0) yield chunk;
}

export function bytesOf(ranges: AddressRanges): number {
  return ranges.reduce((sum, [start, end]) => sum + end - start, 0);
}

/** The ranges in memory that threads share, as pairs of numbers. */
export function shareRanges(ranges: AddressRanges): SharedArrayBuffer {
  const shared = new SharedArrayBuffer(ranges.length * 2 * Float64Array.BYTES_PER_ELEMENT);
  new Float64Array(shared).set(ranges.flat());
  return shared;
}

export function sharedRanges(shared: SharedArrayBuffer): AddressRanges {
  const numbers = new Float64Array(shared);
  return Array.from({ length: numbers.length / 2 }, (_, at) => [numbers[2 * at]!, numbers[2 * at + 1]!] as const);
}

/** Collects pages into runs. */
export class PageRuns {
  readonly list: { first: number; count: number; zero: boolean }[] = [];

  add(page: number, zero: boolean): void {
    const last = this.list.at(-1);
    if (last !== undefined && last.zero === zero && last.first + last.count === page) last.count += 1;
    else this.list.push({ first: page, count: 1, zero });
  }
}

const zeroPage = Buffer.alloc(pageBytes);

/**
 * Adds the pages of `ranges`, whose content is `bytes`, to `runs`. Returns the content that is not zeros.
 * Zeros of hotplugged memory are left out: it starts as zeros.
 */
export function addPages(runs: PageRuns, ranges: AddressRanges, bytes: Buffer, memory: GuestMemory): Buffer[] {
  const parts: Buffer[] = [];
  let at = 0;
  for (const [start, end] of ranges) {
    const { page: first, hotplugged } = placeOf(start, memory);
    for (let page = first; page < first + (end - start) / pageBytes; page += 1, at += pageBytes) {
      const zero = bytes.compare(zeroPage, 0, pageBytes, at, at + pageBytes) === 0;
      if (zero && hotplugged) continue;
      runs.add(page, zero);
      if (zero) continue;
      const last = parts.at(-1);
      const follows = last !== undefined && last.byteOffset + last.length === bytes.byteOffset + at;
      if (follows) parts[parts.length - 1] = bytes.subarray(last.byteOffset - bytes.byteOffset, at + pageBytes);
      else parts.push(bytes.subarray(at, at + pageBytes));
    }
  }
  return parts;
}

/** The guest's page at an address of its process. */
function placeOf(address: number, { regions }: GuestMemory): { readonly page: number; readonly hotplugged: boolean } {
  let before = 0;
  for (const { start, bytes, hotplugged = false } of regions) {
    if (address >= start && address < start + bytes)
      return { page: before + (address - start) / pageBytes, hotplugged };
    before += bytes / pageBytes;
  }
  throw new Error("the page lies outside the guest's memory");
}

/** The addresses of runs. A run that crosses into the next region has two ranges. */
export function addressesOf(runs: readonly PageRun[], { regions }: GuestMemory): AddressRanges {
  return runs.flatMap((run) => [...placesOf(run, regions)]);
}

function* placesOf({ first, count }: PageRun, regions: readonly MemoryRegion[]): Generator<[number, number]> {
  let before = 0;
  for (const { start, bytes } of regions) {
    const pages = bytes / pageBytes;
    const [from, to] = [Math.max(first, before), Math.min(first + count, before + pages)];
    if (from < to) yield [start + (from - before) * pageBytes, start + (to - before) * pageBytes];
    before += pages;
  }
}
