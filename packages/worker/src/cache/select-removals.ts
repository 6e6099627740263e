import type { FileUse } from "#host/storage/disk-use.ts";

/** The kinds of things that the next use makes again. */
export type CacheKind =
  | "template"
  | "workspace"
  | "image"
  | "kit"
  | "guest kernel"
  | "initramfs"
  | "agent disk"
  | "agent bundle"
  | "unnamed image";

/** One thing in the cache: a directory of files that never change. */
export interface CacheItem {
  readonly kind: CacheKind;
  readonly name: string;
  readonly lastUsed: Date;
  /** Every name in it. */
  readonly files: readonly FileUse[];
  /** It stays whatever its age and size: a current build, or something that symbolic links lead to. */
  readonly isNeeded: boolean;
  /** The name of an image; for a template, the name of its image, unless that was removed. */
  readonly image?: string;
}

export interface Retention {
  /** The most that the cache keeps of what no sandbox, checkpoint or current build uses. */
  readonly maxBytes: number;
  /** Unused for this long, an item is removed; undefined: age alone removes nothing. */
  readonly maxAgeMs: number | undefined;
  /** Bytes that the disk lacks: the cache shrinks by this much, whatever its own limit. Absent: none. */
  readonly shortBytes?: number;
}

export interface Removal {
  readonly item: CacheItem;
  readonly reason: "unused" | "over the size" | "disk full";
  /** Bytes that become free, given the removals before it. */
  readonly bytes: number;
}

export interface Selection {
  readonly removals: readonly Removal[];
  /** Bytes that would become free if everything that is not in use went. */
  readonly unusedBytes: number;
}

/** A use is recorded once a minute, and a start may have found an item that it does not hold yet. */
export const recentMs = 60_000;

/**
 * Selects what to remove: first everything that is too old, then the least recently used until the rest fits. An item is
 * in use, and stays, while one of its own files has a link outside the cache, such as in the directory of a machine or a
 * snapshot. Pure.
 */
export function selectRemovals(items: readonly CacheItem[], retention: Retention, now: Date): Selection {
  const { maxBytes, maxAgeMs, shortBytes = 0 } = retention;
  const unused = unusedOf(items);
  const links = new LinkCounts(unused);
  const unusedBytes = links.freeableBytes;
  const lastUses = lastUsesOf(items);
  const ageOf = (item: CacheItem): number => now.getTime() - (lastUses.get(item) ?? 0);
  // Of equally old items, a template goes before the workspace and the image whose files it shares.
  const byUse = unused.toSorted((a, b) => ageOf(b) - ageOf(a) || Number(isShared(a)) - Number(isShared(b)));
  const removals: Removal[] = [];
  const candidates = new Set(byUse.filter((item) => ageOf(item) > recentMs));
  for (const item of candidates) {
    if (maxAgeMs === undefined || ageOf(item) <= maxAgeMs) continue;
    candidates.delete(item);
    removals.push({ item, reason: "unused", bytes: links.remove(item) });
  }
  const limit = Math.min(maxBytes, unusedBytes - shortBytes);
  for (let left = unusedBytes - sumOf(removals); left > limit;) {
    // An item all of whose files have other names frees nothing until the items with those names have gone.
    const next = [...candidates].find((item) => links.freedBy(item) > 0);
    if (next === undefined) break;
    candidates.delete(next);
    const bytes = links.remove(next);
    removals.push({ item: next, reason: left > maxBytes ? "over the size" : "disk full", bytes });
    left -= bytes;
  }
  return { removals, unusedBytes };
}

/** The last use of each item in milliseconds. Images and workspaces are used by the templates that share their files. */
export function lastUsesOf(items: readonly CacheItem[]): ReadonlyMap<CacheItem, number> {
  const ofFiles = new Map<string, number>();
  for (const item of items) {
    if (isShared(item)) continue;
    for (const { inode } of item.files) {
      ofFiles.set(inode, Math.max(item.lastUsed.getTime(), ofFiles.get(inode) ?? 0));
    }
  }
  return new Map(
    items.map((item) => {
      const byOthers = isShared(item) ? item.files.map(({ inode }) => ofFiles.get(inode) ?? 0) : [];
      // A loop instead of an argument for each file: a kit has thousands.
      return [item, byOthers.reduce((latest, time) => Math.max(latest, time), item.lastUsed.getTime())];
    }),
  );
}

function sumOf(removals: readonly Removal[]): number {
  return removals.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Whether templates and snapshots link the item's files, which then belong to the item and not to them. */
function isShared({ kind }: CacheItem): boolean {
  return kind !== "template" && kind !== "unnamed image";
}

/** The items that may go: not needed, and without a link from outside the cache to one of their own files. */
function unusedOf(items: readonly CacheItem[]): readonly CacheItem[] {
  const linked = linkedFromOutside(items);
  return items.filter((item) => !item.isNeeded && !linked.has(item));
}

/** The items of which a file of their own has a link outside the cache, such as in the directory of a machine. */
export function linkedFromOutside(items: readonly CacheItem[]): ReadonlySet<CacheItem> {
  const names = countNames(items);
  const shared = new Set(items.filter(isShared).flatMap(({ files }) => files.map(({ inode }) => inode)));
  const linked = items.filter((item) => {
    const own = isShared(item) ? item.files : item.files.filter(({ inode }) => !shared.has(inode));
    return own.some(({ inode, links }) => links > (names.get(inode) ?? 0));
  });
  return new Set(linked);
}

function countNames(items: readonly CacheItem[]): Map<string, number> {
  const names = new Map<string, number>();
  for (const { files } of items) for (const { inode } of files) names.set(inode, (names.get(inode) ?? 0) + 1);
  return names;
}

/** How many names each file keeps while items are removed. */
class LinkCounts {
  readonly #left = new Map<string, { links: number; readonly bytes: number }>();
  /** Bytes that become free when all items have been removed. */
  readonly freeableBytes: number;

  constructor(items: readonly CacheItem[]) {
    const names = countNames(items);
    let freeable = 0;
    for (const { files } of items) {
      for (const { inode, links, bytes } of files) {
        if (this.#left.has(inode)) continue;
        this.#left.set(inode, { links, bytes });
        if (links <= (names.get(inode) ?? 0)) freeable += bytes;
      }
    }
    this.freeableBytes = freeable;
  }

  freedBy(item: CacheItem): number {
    return this.#sum(item, (count, names) => (count.links <= names ? count.bytes : 0));
  }

  /** Returns the bytes that become free. */
  remove(item: CacheItem): number {
    return this.#sum(item, (count, names) => {
      count.links -= names;
      return count.links <= 0 ? count.bytes : 0;
    });
  }

  #sum(item: CacheItem, bytesOf: (count: { links: number; readonly bytes: number }, names: number) => number): number {
    let sum = 0;
    for (const [inode, names] of countNames([item])) {
      const count = this.#left.get(inode);
      if (count !== undefined) sum += bytesOf(count, names);
    }
    return sum;
  }
}
