import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { type CacheItem, type CacheKind, recentMs, type Retention, selectRemovals } from "./select-removals.ts";

const now = new Date("2026-06-01T00:00:00Z");
const day = 24 * 3_600_000;

interface Wish {
  readonly kind: CacheKind;
  readonly ageMs: number;
  readonly isNeeded: boolean;
  /** Indexes of files, some of which several items share. */
  readonly inodes: readonly number[];
}

/** A world of items; `outside` counts links of each file that no item has. */
function worldOf(wishes: readonly Wish[], outside: readonly number[]): CacheItem[] {
  const names = new Map<number, number>();
  for (const { inodes } of wishes) for (const inode of inodes) names.set(inode, (names.get(inode) ?? 0) + 1);
  return wishes.map(({ kind, ageMs, isNeeded, inodes }, index) => ({
    ...{ kind, name: `item-${index}`, isNeeded },
    lastUsed: new Date(now.getTime() - ageMs),
    files: inodes.map((inode) => ({
      inode: `${inode}`,
      bytes: 2 ** inode,
      links: (names.get(inode) ?? 0) + (outside[inode] ?? 0),
    })),
  }));
}

const item = (more: Partial<Wish>): Wish => ({ kind: "template", ageMs: day, isNeeded: false, inodes: [], ...more });
const unlimited: Retention = { maxBytes: Number.POSITIVE_INFINITY, maxAgeMs: undefined };

function removedFrom(items: readonly CacheItem[], retention: Partial<Retention>): string[] {
  const { removals } = selectRemovals(items, { ...unlimited, ...retention }, now);
  return removals.map(({ item, reason, bytes }) => `${item.name} ${reason} ${bytes}`);
}

test("an item that nothing used for the retention time is removed, the longest unused first", () => {
  const items = worldOf([item({ ageMs: 3 * day, inodes: [0] }), item({ ageMs: 5 * day, inodes: [1] }), item({})], []);
  assert.deepEqual(removedFrom(items, { maxAgeMs: 2 * day }), ["item-1 unused 2", "item-0 unused 1"]);
});

test("above the maximum size, the least recently used items are removed until the rest fits", () => {
  const items = worldOf(
    [10, 30, 20].map((age, inode) => item({ ageMs: age * day, inodes: [inode] })),
    [],
  );
  assert.deepEqual(removedFrom(items, { maxBytes: 5 }), ["item-1 over the size 2"]);
  assert.deepEqual(removedFrom(items, { maxBytes: 2 }), ["item-1 over the size 2", "item-2 over the size 4"]);
});

test("when the disk lacks room, the cache gives way by as much, least recently used first", () => {
  const items = worldOf(
    [10, 30, 20].map((age, inode) => item({ ageMs: age * day, inodes: [inode] })),
    [],
  );
  assert.deepEqual(removedFrom(items, { shortBytes: 3 }), ["item-1 disk full 2", "item-2 disk full 4"]);
  const both = removedFrom(items, { maxBytes: 5, shortBytes: 3 });
  assert.deepEqual(both, ["item-1 over the size 2", "item-2 disk full 4"]);
});

test("a template with a running machine, or with a snapshot of a sandbox, stays", () => {
  const items = worldOf([item({ inodes: [0] }), item({ inodes: [1] })], [1, 0]);
  assert.deepEqual(removedFrom(items, { maxBytes: 0, maxAgeMs: 1 }), ["item-1 unused 2"]);
});

test("a template does not count as used because a machine of another template has the same disk", () => {
  const image = item({ kind: "image", inodes: [5], isNeeded: true });
  const items = worldOf([image, item({ inodes: [0, 5] })], [0, 0, 0, 0, 0, 1]);
  assert.deepEqual(removedFrom(items, { maxBytes: 0 }), ["item-1 over the size 1"]);
});

test("a workspace frees its space when the template that shares it has gone", () => {
  const workspace = item({ kind: "workspace", ageMs: 2 * day, inodes: [4] });
  const items = worldOf([workspace, item({ inodes: [1, 4] })], []);
  assert.deepEqual(removedFrom(items, { maxBytes: 0 }), ["item-1 over the size 2", "item-0 over the size 16"]);
});

test("a workspace is as recently used as the templates that share it", () => {
  const workspace = item({ kind: "workspace", ageMs: 9 * day, inodes: [4] });
  const items = worldOf(
    [workspace, item({ ageMs: 5 * day, inodes: [1, 4] }), item({ ageMs: day, inodes: [2, 4] })],
    [],
  );
  assert.deepEqual(removedFrom(items, { maxBytes: 20, maxAgeMs: 7 * day }), ["item-1 over the size 2"]);
});

const wish: fc.Arbitrary<Wish> = fc.record({
  kind: fc.constantFrom<CacheKind>("template", "workspace", "image", "agent disk", "unnamed image"),
  ageMs: fc.oneof(fc.integer({ min: 0, max: 2 * recentMs }), fc.integer({ min: 0, max: 60 * day })),
  isNeeded: fc.boolean(),
  inodes: fc.uniqueArray(fc.integer({ min: 0, max: 12 }), { maxLength: 5 }),
});

/** Whether an item could go, said another way than the code says it. */
function isUsed(item: CacheItem, items: readonly CacheItem[]): boolean {
  const isArtifact = ({ kind }: CacheItem): boolean => kind !== "template" && kind !== "unnamed image";
  const having = (inode: string): CacheItem[] =>
    items.filter(({ files }) => files.some((file) => file.inode === inode));
  return item.files.some(({ inode, links }) => {
    if (!isArtifact(item) && having(inode).some(isArtifact)) return false;
    return links > having(inode).length;
  });
}

function lastUseOf(item: CacheItem, items: readonly CacheItem[]): number {
  const isArtifact = item.kind !== "template" && item.kind !== "unnamed image";
  const users = items.filter(
    ({ kind, files }) =>
      isArtifact &&
      (kind === "template" || kind === "unnamed image") &&
      files.some(({ inode }) => item.files.some((file) => file.inode === inode)),
  );
  return Math.max(...[item, ...users].map(({ lastUsed }) => lastUsed.getTime()));
}

test("no selection removes what is needed, in use or recent, and none stops while something more could go", () => {
  const world = fc.record({
    wishes: fc.array(wish, { maxLength: 12 }),
    outside: fc.array(fc.integer({ min: 0, max: 1 }), { minLength: 13, maxLength: 13 }),
    maxBytes: fc.integer({ min: 0, max: 10_000 }),
    maxAgeMs: fc.option(fc.integer({ min: 1, max: 60 * day }), { nil: undefined }),
  });
  fc.assert(
    fc.property(world, ({ wishes, outside, maxBytes, maxAgeMs }) => {
      const items = worldOf(wishes, outside);
      const { removals, unusedBytes } = selectRemovals(items, { maxBytes, maxAgeMs }, now);
      const removed = new Set(removals.map(({ item }) => item));
      assert.equal(removed.size, removals.length, "nothing is removed twice");
      const ageOf = (item: CacheItem): number => now.getTime() - lastUseOf(item, items);
      const mayGo = (item: CacheItem): boolean => !item.isNeeded && !isUsed(item, items) && ageOf(item) > recentMs;
      assert.ok(removals.every(({ item }) => mayGo(item)));

      // A model of the file system: the bytes that are said to become free do.
      const links = new Map(items.flatMap(({ files }) => files.map(({ inode, links }) => [inode, links])));
      for (const { item, bytes } of removals) {
        let freed = 0;
        for (const { inode, bytes } of item.files) {
          links.set(inode, (links.get(inode) ?? 0) - 1);
          if (links.get(inode) === 0) freed += bytes;
        }
        assert.equal(bytes, freed);
      }
      const freed = removals.reduce((sum, { bytes }) => sum + bytes, 0);

      const old = items.filter((item) => mayGo(item) && maxAgeMs !== undefined && ageOf(item) > maxAgeMs);
      assert.ok(
        old.every((item) => removed.has(item)),
        "everything too old goes",
      );
      const more = items.filter((item) => mayGo(item) && !removed.has(item));
      const frees = ({ files }: CacheItem): boolean => files.some(({ inode }) => links.get(inode) === 1);
      assert.ok(unusedBytes - freed <= maxBytes || !more.some(frees), "the rest fits, or nothing more can go");
      const last = removals.at(-1);
      if (last?.reason === "over the size") assert.ok(unusedBytes - freed + last.bytes > maxBytes, "none goes in vain");
    }),
  );
});
