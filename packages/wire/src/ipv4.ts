/** IPv4 addresses as unsigned numbers, and ranges of them. Pure. */
export interface Range {
  readonly first: number;
  /** Inclusive. */
  readonly last: number;
}

/** An address in dotted notation as a number, or undefined. */
export function parseIpv4(text: string): number | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (match === null) return undefined;
  const parts = match.slice(1).map(Number);
  // Some parsers read a leading zero as octal, so it is refused.
  if (parts.some((part) => part > 255) || match.slice(1).some((part) => /^0\d/.test(part))) return undefined;
  return parts.reduce((sum, part) => sum * 256 + part, 0);
}

export function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join(".");
}

/** The address in network byte order. */
export function ipv4Bytes(address: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(address);
  return bytes;
}

/** A range such as `10.1.2.0/24`, or a single address. Bits beyond the prefix are ignored. */
export function parseRange(text: string): Range | undefined {
  const [address = "", prefix = "32", ...more] = text.split("/");
  const number = parseIpv4(address);
  if (number === undefined || more.length > 0 || !/^\d{1,2}$/.test(prefix) || Number(prefix) > 32) return undefined;
  const size = 2 ** (32 - Number(prefix));
  const first = Math.floor(number / size) * size;
  return { first, last: first + size - 1 };
}

/** Merges ranges: the fewest sorted ranges with the same addresses, which neither overlap nor touch. */
export function mergeRanges(ranges: readonly Range[]): Range[] {
  const merged: Range[] = [];
  for (const range of ranges.toSorted((a, b) => a.first - b.first)) {
    const before = merged.at(-1);
    if (before === undefined || range.first > before.last + 1) merged.push(range);
    else merged[merged.length - 1] = { first: before.first, last: Math.max(before.last, range.last) };
  }
  return merged;
}

export function isInRanges(address: number, ranges: readonly Range[]): boolean {
  return ranges.some(({ first, last }) => first <= address && address <= last);
}
