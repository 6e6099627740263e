import assert from "node:assert/strict";
import { link, mkdir, mkdtemp, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { allocatedBytes } from "./allocated-bytes.ts";

const mib = 2 ** 20;

test("files count by what they take on the disk, once each, without those of images and templates", async () => {
  const root = await mkdtemp(join(tmpdir(), "osb-allocated-"));
  try {
    for (const name of ["machine", "snapshot", "templates/t"]) await mkdir(join(root, name), { recursive: true });
    const write = (name: string, bytes: number) => writeFile(join(root, name), Buffer.alloc(bytes, 1));
    await write("machine/rootfs-1.qcow2", mib);
    await link(join(root, "machine/rootfs-1.qcow2"), join(root, "snapshot/rootfs-1.qcow2"));
    await write("snapshot/memory.delta", 2 * mib);
    await write("machine/rootfs.base", 4 * mib);
    await write("templates/t/memory", 8 * mib);
    await link(join(root, "templates/t/memory"), join(root, "machine/memory"));
    await symlink("/dev/zero", join(root, "machine/link"));
    await writeFile(join(root, "machine/sparse"), "");
    await truncate(join(root, "machine/sparse"), 100 * mib);

    const measure = (...names: string[]) =>
      allocatedBytes(
        names.map((name) => join(root, name)),
        { except: join(root, "templates") },
      );
    assert.equal(await measure("machine"), mib);
    assert.equal(await measure("machine", "snapshot"), 3 * mib);
    assert.equal(await measure("snapshot", "machine", "gone"), 3 * mib);
  } finally {
    await rm(root, { recursive: true });
  }
});
