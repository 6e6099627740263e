import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { lstat, mkdir, mkdtemp, readFile, readlink, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, suite, test } from "node:test";
import { gzipSync } from "node:zlib";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { readAttribute } from "#host/kernel/libc.ts";
import { removeBuild } from "#images/privileged.ts";
import type { ImageConfig } from "../image-manifest.ts";
import { digest, type LayerEntry, tarOf } from "../testing/layers.ts";
import { Unpacking } from "./unpacking.ts";

const noConfig: ImageConfig = { env: [], entrypoint: [], cmd: [], workdir: "", user: "" };
const limits = { maxBytes: 256 * 2 ** 20, maxEntries: 1000 };

suite("an image's layers are unpacked by a process without rights", () => {
  let directory: string;
  let root: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-unpack-"));
    root = join(directory, "root");
    await mkdir(root);
  });
  afterEach(() => removeBuild(directory));

  async function unpack(
    layers: readonly (readonly LayerEntry[] | Buffer)[],
    { config = noConfig, wrongDigest = false, bounds = limits } = {},
  ): Promise<void> {
    const signal = AbortSignal.timeout(120_000);
    await using unpacking = await Unpacking.start(root, bounds, signal);
    for (const layer of layers) {
      const tar = Buffer.isBuffer(layer) ? layer : tarOf(layer);
      const bytes = gzipSync(tar);
      const file = join(directory, "layer");
      await writeFile(file, bytes);
      const diffId = wrongDigest ? digest(Buffer.from("other")) : digest(tar);
      await unpacking.layer({ file, size: bytes.length, compression: "gzip", diffId, directory: "" });
    }
    await unpacking.finish(config);
  }

  const at = (path: string): string => join(root, path);

  test("later layers change, replace and remove what earlier ones made", async () => {
    await unpack([
      [
        { path: "usr/", type: "5", mode: 0o755 },
        { path: "usr/lib/", type: "5", mode: 0o755 },
        { path: "lib", type: "2", target: "usr/lib" },
        { path: "etc/kept", content: "kept" },
        { path: "etc/gone", content: "gone" },
        { path: "etc/replaced", content: "first" },
        { path: "full/a", content: "a" },
        { path: "full/b/c", content: "c" },
        { path: "tree/deep/file", content: "x" },
      ],
      [
        { path: "lib/through-a-link", content: "there" },
        { path: "etc/.wh.gone" },
        { path: "etc/replaced/", type: "5", mode: 0o700 },
        { path: "etc/replaced/inside", content: "second" },
        { path: "full/new", content: "new" },
        { path: "full/.wh..wh..opq" },
        { path: ".wh.tree" },
        { path: ".wh.never-there" },
      ],
    ]);
    assert.equal(await readFile(at("usr/lib/through-a-link"), "utf8"), "there");
    assert.equal(await readFile(at("etc/kept"), "utf8"), "kept");
    assert.ok(!existsSync(at("etc/gone")));
    assert.equal(await readFile(at("etc/replaced/inside"), "utf8"), "second");
    assert.deepEqual(readdirSync(at("full")), ["new"]);
    assert.ok(!existsSync(at("tree")));
  });

  test("owners, modes, times, links, attributes and holes are those of the layer", async () => {
    const hole = 4 * 2 ** 20;
    const capability = Buffer.from("0100000200200000000000000000000000000000", "hex");
    await unpack([
      [
        { path: "program", content: "x", mode: 0o4755, uid: 12, gid: 34, mtime: 1_000_000_000 },
        { path: "other-name", type: "1", target: "program" },
        { path: "ping", content: "x", mode: 0o755, pax: { "SCHILY.xattr.security.capability": capability } },
        { path: "zeros", content: Buffer.alloc(hole) },
        { path: "pipe", type: "6", mode: 0o640 },
        { path: "dev/null", type: "3" },
        { path: "name-\u00ff", content: "bytes" },
        { path: "link", type: "2", target: "../../outside", uid: 5 },
      ],
    ]);
    const program = await stat(at("program"));
    if (process.getuid?.() === 0) assert.deepEqual([program.uid, program.gid], [12, 34]);
    assert.deepEqual([program.mode & 0o7777, program.mtimeMs / 1000, program.nlink], [0o4755, 1_000_000_000, 2]);
    const sparse = await stat(at("zeros"));
    assert.equal(sparse.size, hole);
    assert.ok(sparse.blocks * 512 < hole / 8, `${sparse.blocks} blocks`);
    assert.ok((await stat(at("pipe"))).isFIFO());
    assert.ok(!existsSync(at("dev/null")));
    assert.ok(
      readdirSync(root, { encoding: "buffer" }).some((name) => name.equals(Buffer.from("name-\u00ff", "latin1"))),
    );
    assert.equal(await readlink(at("link")), "../../outside");
    if (process.getuid?.() === 0) {
      assert.equal(readAttribute(at("ping"), "security.capability"), capability.toString());
    }
  });

  test("a guest gets its user, a shell, and a note of the image's configuration", async () => {
    const config: ImageConfig = {
      env: ["PATH=/opt/bin", "A=b"],
      entrypoint: ["/start"],
      cmd: ["now"],
      workdir: "/app/src",
      user: "4000:4001",
    };
    await unpack(
      [[{ path: "etc/passwd", content: "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh" }]],
      {
        config,
      },
    );
    const accounts = (await readFile(at("etc/passwd"), "utf8")).split("\n");
    assert.ok(accounts.includes("sandbox:x:1000:1000::/home/sandbox:/bin/sh"));
    assert.ok(accounts.includes("image-user:x:4000:4001::/:/bin/sh"));
    assert.equal(await readlink(at("bin/sh")), "/run/opensandbox/bin/busybox");
    assert.deepEqual(JSON.parse(await readFile(at("etc/opensandbox-image.json"), "utf8")), {
      env: config.env,
      user: "image-user",
      workdir: "/app/src",
      command: ["/start", "now"],
    });
    assert.ok((await lstat(at("app/src"))).isDirectory());
  });

  const outside = join(tmpdir(), `osb-unpack-outside-${process.pid}`);
  const hostile: Readonly<Record<string, readonly (readonly LayerEntry[] | Buffer)[]>> = {
    "a path with ..": [[{ path: "../escape", content: "x" }]],
    "a path with .. in the middle": [[{ path: "a/../../escape", content: "x" }]],
    "a hard link to a path with ..": [[{ path: "a", type: "1", target: "../../etc/passwd" }]],
    "a hard link to nothing": [[{ path: "a", type: "1", target: "etc/missing" }]],
    "a whiteout of ..": [[{ path: "a/.wh..." }], [{ path: "b/.wh..", content: "" }]],
    "a device": [[{ path: "disk", type: "4" }]],
    "an owner above 65535": [[{ path: "a", pax: { uid: "100000" } }]],
    "more entries than an image may have": [Array.from({ length: 1100 }, (_, index) => ({ path: `f${index}` }))],
    "a file below a file": [
      [
        { path: "a", content: "x" },
        { path: "a/b", content: "y" },
      ],
    ],
    "/etc/passwd as a pipe": [[{ path: "etc/passwd", type: "6" }]],
    "/etc as a file": [[{ path: "etc", content: "x" }]],
    "a layer that is cut short": [tarOf([{ path: "a", content: "x".repeat(3000) }]).subarray(0, 1500)],
    "300 MB of zeros": [tarOf([{ path: "zeros", content: Buffer.alloc(300 * 2 ** 20) }])],
  };
  for (const [what, layers] of Object.entries(hostile)) {
    test(`${what} is refused with words, and nothing is left outside`, async () => {
      await assert.rejects(unpack(layers), (error) => {
        assert.ok(isSandboxError(error, "invalid_argument"), String(error));
        assert.match(error.message, /image|archive/);
        return true;
      });
      assert.ok(!existsSync(outside));
      assert.ok(!existsSync(join(directory, "escape")));
    });
  }

  test("links of one layer never lead the next one out of the image", async () => {
    await mkdir(outside);
    try {
      await writeFile(join(outside, "file"), "of the host");
      await unpack([
        [
          { path: "absolute", type: "2", target: outside },
          { path: "relative", type: "2", target: `../../../../../../../..${outside}` },
          { path: "etc/opensandbox-image.json", type: "2", target: `${outside}/note` },
          { path: "etc/sudoers.d", type: "2", target: outside },
        ],
        [
          { path: `${outside}/`, type: "5" },
          { path: "absolute/made", content: "x" },
          { path: "relative/file", content: "overwritten" },
          { path: "relative/.wh..wh..opq" },
        ],
      ]);
      assert.deepEqual(readdirSync(outside), ["file"]);
      assert.equal(await readFile(join(outside, "file"), "utf8"), "of the host");
    } finally {
      await rm(outside, { recursive: true });
    }
  });

  test("a layer of another digest than the configuration names is refused", async () => {
    await assert.rejects(unpack([[{ path: "a" }]], { wrongDigest: true }), /has the digest sha256:/);
  });

  test("an abort ends the process", async () => {
    const stop = new AbortController();
    const unpacking = await Unpacking.start(root, limits, stop.signal);
    stop.abort();
    await assert.rejects(unpacking.finish(noConfig));
    await unpacking[Symbol.asyncDispose]();
  });
});
