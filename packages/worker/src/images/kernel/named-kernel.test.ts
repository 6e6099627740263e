import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { imageSource } from "../image-source.ts";
import { driverEntries } from "../initramfs.ts";
import type { Kit } from "../kit.ts";
import { provideNamedKernel, readKernel } from "./named-kernel.ts";

const elf = Buffer.from("\x7fELF ... Linux version 6.12.33-pvm (builder@host) ...", "latin1");
const never = undefined;

async function stand() {
  const path = await mkdtemp(join(tmpdir(), "osb-kernel-"));
  const modules = join(path, "6.12.33-pvm");
  await mkdir(join(modules, "kernel"), { recursive: true });
  await writeFile(join(modules, "modules.dep"), "kernel/virtio_net.ko:\n");
  await writeFile(join(modules, "modules.builtin"), "kernel/drivers/block/virtio-blk.ko\n");
  await writeFile(join(modules, "kernel/virtio_net.ko"), "a module");
  const kernel = join(path, "vmlinux");
  await writeFile(kernel, elf);
  const kit: Kit = {
    ...{ id: "debian", kernelVersion: "6.1", kernel: "/debian/vmlinux", modules: "/debian/modules" },
    ...{ busybox: "/debian/busybox", libraries: "/debian/lib" },
  };
  return {
    ...{ path, modules, kernel, kit, source: imageSource({ imagesDirectory: join(path, "images") }) },
    [Symbol.asyncDispose]: () => rm(path, { recursive: true }),
  };
}

test("a named kernel takes the place of Debian's, with its modules", async () => {
  await using standing = await stand();
  const { source, kit, kernel, modules } = standing;
  const named = await provideNamedKernel(source, kit.id, { kernel, modules }, never);
  assert.equal(named.kernelVersion, "6.12.33-pvm");
  assert.ok(elf.equals(await readFile(named.kernel)));
  assert.deepEqual(await readdir(named.modules), ["6.12.33-pvm"]);
  assert.notEqual(named.id, kit.id);
  const again = await provideNamedKernel(source, kit.id, { kernel, modules }, never);
  assert.deepEqual(again, named);
  await writeFile(join(modules, "kernel/virtio_net.ko"), "another module");
  assert.notEqual((await provideNamedKernel(source, kit.id, { kernel, modules }, never)).id, named.id);
});

test("a driver that is part of a named kernel needs no module, and without a module tree none does", async () => {
  await using standing = await stand();
  const { source, kit, kernel, modules } = standing;
  const drivers = ["virtio_blk", "virtio_net"];
  const paths = async (named: Partial<Kit>): Promise<string[]> =>
    (await driverEntries({ ...kit, ...named }, drivers, never)).map(({ path }) => path);
  assert.deepEqual(await paths(await provideNamedKernel(source, kit.id, { kernel, modules }, never)), [
    ...["modules/virtio_blk", "modules/virtio_net", "modules/virtio_net/0.ko"],
  ]);
  assert.deepEqual(await paths(await provideNamedKernel(source, kit.id, { kernel }, never)), [
    ...["modules/virtio_blk", "modules/virtio_net"],
  ]);
});

test("a file that is not a kernel, and modules of another kernel, are refused with their names", async () => {
  await using standing = await stand();
  const { path, source, kit, kernel } = standing;
  const text = join(path, "text");
  await writeFile(text, "a text\n");
  const code = "invalid_argument";
  await assert.rejects(readKernel(text), {
    code,
    message: `The guest kernel must be a vmlinux (ELF), or a bzImage compressed with zstd. ${text}: not a kernel image`,
  });
  await assert.rejects(readKernel(join(path, "none")), {
    code,
    message: /^Cannot read the guest kernel .*none: .*ENOENT/,
  });
  const program = join(path, "program");
  await writeFile(program, "\x7fELF but no kernel");
  await assert.rejects(provideNamedKernel(source, kit.id, { kernel: program }, never), {
    code,
    message: `The guest kernel ${program} is an ELF file without a version of Linux`,
  });
  await assert.rejects(provideNamedKernel(source, kit.id, { kernel, modules: "/lib/modules/6.1" }, never), {
    code,
    message: /is Linux 6\.12\.33-pvm, and \/lib\/modules\/6\.1 is not its module tree/,
  });
  await assert.rejects(provideNamedKernel(source, kit.id, { kernel, modules: "/none/6.12.33-pvm" }, never), {
    code,
    message: /^Cannot read the modules of the guest kernel in \/none\/6\.12\.33-pvm: /,
  });
});
