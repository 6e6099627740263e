import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { cpioArchive, type CpioEntry } from "./cpio.ts";

const names = fc.stringMatching(/^[a-z0-9._-]{1,40}(\/[a-z0-9._-]{1,20}){0,2}$/);
const entries: fc.Arbitrary<CpioEntry> = fc.oneof(
  fc.record({ path: names, kind: fc.constant("directory" as const), mode: fc.nat({ max: 0o7777 }) }),
  fc.record({
    path: names,
    kind: fc.constantFrom("file" as const, "symlink" as const),
    mode: fc.nat({ max: 0o7777 }),
    content: fc.uint8Array({ minLength: 1, maxLength: 300 }),
  }),
);

test("an archive unpacks to its entries by the rules of the format", () => {
  fc.assert(
    fc.property(fc.array(entries, { maxLength: 12 }), (packed) => {
      const unpacked = unpack(Buffer.from(cpioArchive(packed)));
      assert.deepEqual(
        unpacked,
        packed.map(({ path, kind, mode, content = new Uint8Array() }) => ({
          path,
          kind,
          mode,
          content: Buffer.from(content).toString("hex"),
        })),
      );
    }),
  );
});

test("equal entries make equal bytes", () => {
  const some: CpioEntry[] = [{ path: "a", kind: "file", mode: 0o644, content: Buffer.from("x") }];
  assert.deepEqual(cpioArchive(some), cpioArchive(structuredClone(some)));
});

/** A reader of its own: Documentation/driver-api/early-userspace/buffer-format.rst, "newc". */
function unpack(archive: Buffer): object[] {
  const found: object[] = [];
  const inodes = new Set<number>();
  for (let at = 0; ;) {
    assert.equal(at % 4, 0);
    assert.equal(archive.toString("latin1", at, at + 6), "070701");
    const field = (index: number): number =>
      parseInt(archive.toString("latin1", at + 6 + 8 * index, at + 14 + 8 * index), 16);
    const [inode, mode, size, nameBytes] = [field(0), field(1), field(6), field(11)] as [
      number,
      number,
      number,
      number,
    ];
    const name = archive.toString("utf8", at + 110, at + 110 + nameBytes - 1);
    assert.equal(archive[at + 110 + nameBytes - 1], 0);
    const start = aligned(at + 110 + nameBytes);
    if (name === "TRAILER!!!") {
      assert.equal(aligned(start + size), archive.length);
      return found;
    }
    assert.equal(inodes.has(inode), false, "two entries with one inode would be one file with two names");
    inodes.add(inode);
    const kind = { 0o04: "directory", 0o10: "file", 0o12: "symlink" }[mode >> 12];
    found.push({ path: name, kind, mode: mode & 0o7777, content: archive.toString("hex", start, start + size) });
    at = aligned(start + size);
  }
}

function aligned(position: number): number {
  return (position + 3) & ~3;
}
