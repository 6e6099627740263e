import { readFile, writeFile } from "node:fs/promises";
import { zstdDecompressSync } from "node:zlib";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * Unpacks the kernel from the self-extracting file `vmlinuz` and writes it as an ELF file, which a hypervisor enters
 * directly (PVH). Unpacking it here, once, saves every guest most of the time before the kernel's first line. The price
 * is that the kernel's own address is not random.
 */
export async function kernelElf(vmlinuz: string, target: string): Promise<void> {
  await writeFile(target, elfOf(await readFile(vmlinuz), vmlinuz));
}

/** Offsets are those of the boot protocol, Documentation/arch/x86/boot.rst. */
export function elfOf(image: Buffer, name: string): Buffer {
  const unusable = (why: string, cause?: unknown) =>
    new SandboxError("internal", `${name}: ${why}`, cause === undefined ? {} : { cause });
  if (image.length < 0x250 || image.toString("latin1", 0x202, 0x206) !== "HdrS") throw unusable("not a kernel image");
  const setupSectors = image.readUInt8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248);
  const length = image.readUInt32LE(0x24c);
  // The kernel's build appends the unpacked size to the payload; it does not belong to the zstd frame.
  const payload = image.subarray(start, start + length - 4);
  let kernel: Buffer;
  try {
    kernel = zstdDecompressSync(payload);
  } catch (cause) {
    throw unusable("its payload is not compressed with zstd", cause);
  }
  if (kernel.toString("latin1", 0, 4) !== "\x7fELF") throw unusable("its payload is not an ELF file");
  return kernel;
}
