import assert from "node:assert/strict";
import { suite, test } from "node:test";
import * as fc from "fast-check";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { type TarEntry, TarReader } from "./tar-reader.ts";
import { type LayerEntry, tarOf } from "./testing/layers.ts";

suite("the reader of layers", () => {
  test("entries keep names, owners, times, attributes and content as bytes", async () => {
    const capability = Buffer.from("0000000280000000000000000000000000000000", "hex");
    const entries = await read(
      tarOf([
        { path: "dir/", type: "5", mode: 0o1777, uid: 1, gid: 2, mtime: 3 },
        { path: "dir/\u00ff\u00fe", content: "not UTF-8" },
        {
          path: "l".repeat(300),
          content: "long",
          pax: { "SCHILY.xattr.security.capability": capability, mtime: "12.5" },
        },
        { path: "link", type: "1", target: "dir/\u00ff\u00fe" },
        { path: "symlink", type: "2", target: "/absolute" },
        { path: "big-id", pax: { uid: "60000", gid: "60001" } },
      ]),
    );
    assert.deepEqual(
      entries.map(({ entry: { path, type }, content }) => [path.slice(0, 6), type, content]),
      [
        ["dir/", "directory", ""],
        ["dir/\u00ff\u00fe", "file", "not UTF-8"],
        ["llllll", "file", "long"],
        ["link", "link", ""],
        ["symlin", "symlink", ""],
        ["big-id", "file", ""],
      ],
    );
    const [directory, , long, link, , numbers] = entries.map(({ entry }) => entry);
    assert.deepEqual([directory?.mode, directory?.uid, directory?.gid, directory?.mtime], [0o1777, 1, 2, 3]);
    assert.deepEqual([long?.path.length, long?.mtime], [300, 12.5]);
    assert.deepEqual(long?.attributes.get("security.capability"), capability);
    assert.equal(link?.target, "dir/\u00ff\u00fe");
    assert.deepEqual([numbers?.uid, numbers?.gid], [60_000, 60_001]);
  });

  test("a sparse file of PAX 1.0 has its parts and its real size", async () => {
    const map = Buffer.alloc(512);
    map.write("2\n1024\n3\n8192\n2\n");
    const pax = {
      "GNU.sparse.major": "1",
      "GNU.sparse.minor": "0",
      "GNU.sparse.realsize": "10000",
      "GNU.sparse.name": "real",
    };
    const [file, next] = await read(
      tarOf([
        { path: "GNUSparseFile/real", content: Buffer.concat([map, Buffer.from("abcde")]), pax },
        { path: "next" },
      ]),
    );
    assert.deepEqual([file?.entry.path, file?.entry.size, file?.content], ["real", 10_000, "abcde"]);
    assert.deepEqual(file?.entry.segments, [
      { offset: 1024, size: 3 },
      { offset: 8192, size: 2 },
    ]);
    assert.equal(next?.entry.path, "next");
  });

  const damaged: Readonly<Record<string, Buffer>> = {
    "text instead of an archive": Buffer.from("x".repeat(2000)),
    "an archive that is cut short": tarOf([{ path: "a", content: "x".repeat(2000) }]).subarray(0, 1000),
    "a wrong checksum": changed(tarOf([{ path: "a" }]), 0, 0x62),
    "a header of a gigabyte": tarOf([{ path: "a", type: "x", size: 2 ** 30 }]),
    "a malformed PAX header": tarOf([{ path: "a", type: "x", content: "999 a=b\n" }]),
    "a PAX header with a length of zero": tarOf([{ path: "a", type: "x", content: "0 a=b\n" }]),
    "a path with a zero byte": tarOf([{ path: "a", pax: { path: "a\0b" } }]),
    "a path that is too long": tarOf([{ path: "a", pax: { path: "a/".repeat(2500) } }]),
    "a size that is no number": tarOf([{ path: "a", pax: { size: "1e9" } }]),
    "sparse parts that overlap": sparse("0,10,5,10", "20"),
    "sparse parts beyond the size": sparse("0,10,100,10", "20"),
    "sparse parts of another length than the content": sparse("0,5", "20"),
    "an unknown type": tarOf([{ path: "a", type: "Z" }]),
  };
  for (const [what, archive] of Object.entries(damaged)) {
    test(`${what} is refused`, async () => {
      await assert.rejects(read(archive), (error) => isSandboxError(error, "invalid_argument"));
    });
  }

  test("any bytes end in entries or in a refusal, whatever chunks they come in", async () => {
    const entry = fc.record({
      path: fc.string({ maxLength: 150 }),
      type: fc.constantFrom("0", "1", "2", "5", "L", "K", "x", "g", "S", "Z", "\0"),
      content: fc.string({ maxLength: 1500 }),
      size: fc.option(fc.nat(3000), { nil: undefined }),
    });
    const archive = fc.oneof(
      fc.uint8Array({ maxLength: 4000 }).map((bytes) => Buffer.from(bytes)),
      fc
        .array(entry, { maxLength: 6 })
        .map((entries) =>
          tarOf(entries.map(({ size, ...rest }): LayerEntry => ({ ...rest, ...(size === undefined ? {} : { size }) }))),
        ),
    );
    await fc.assert(
      fc.asyncProperty(archive, fc.integer({ min: 1, max: 5000 }), async (bytes, chunk) => {
        try {
          await read(bytes, chunk);
        } catch (error) {
          assert.ok(isSandboxError(error, "invalid_argument"), String(error));
        }
      }),
      { numRuns: 300 },
    );
  });
});

function sparse(map: string, size: string): Buffer {
  return tarOf([{ path: "a", content: "x".repeat(20), pax: { "GNU.sparse.map": map, "GNU.sparse.size": size } }]);
}

function changed(bytes: Buffer, at: number, value: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = value;
  return copy;
}

async function read(archive: Buffer, chunk = 700): Promise<{ entry: TarEntry; content: string }[]> {
  async function* chunks(): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < archive.length; at += chunk) {
      await Promise.resolve();
      yield archive.subarray(at, at + chunk);
    }
  }
  const reader = new TarReader(chunks());
  const found: { entry: TarEntry; content: string }[] = [];
  for (let entry = await reader.next(); entry !== undefined; entry = await reader.next()) {
    const parts: Buffer[] = [];
    for await (const part of reader.content()) parts.push(Buffer.from(part));
    found.push({ entry, content: Buffer.concat(parts).toString("latin1") });
  }
  return found;
}
