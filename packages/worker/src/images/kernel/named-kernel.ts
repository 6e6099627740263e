import { createHash } from "node:crypto";
import { cp, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { hashOfFile, provideArtifact } from "#images/artifact.ts";
import { cpioArchive } from "#images/cpio.ts";
import { artifactPlace, type ImageSource, type NamedKernel } from "#images/image-source.ts";
import { elfOf } from "#images/kernel/kernel-elf.ts";

/** What a probe needs to see the kernel run. @throws `invalid_argument` as {@link readKernel} */
export async function kernelProbe(file: string) {
  const initramfs = cpioArchive([{ path: "init", kind: "file", mode: 0o755, content: greetingProgram() }]);
  return { file, elf: await readKernel(file), initramfs, greeting };
}

/** The kernel as an ELF file. @throws `invalid_argument` with the file and what is wrong with it */
export async function readKernel(file: string): Promise<Buffer> {
  let image: Buffer;
  try {
    image = await readFile(file);
  } catch (cause) {
    throw new SandboxError("invalid_argument", `Cannot read the guest kernel ${file}: ${String(cause)}`, { cause });
  }
  if (image.toString("latin1", 0, 4) === "\x7fELF") return image;
  try {
    return elfOf(image, file);
  } catch (cause) {
    const why = cause instanceof SandboxError ? cause.message : String(cause);
    throw new SandboxError(
      "invalid_argument",
      `The guest kernel must be a vmlinux (ELF), or a bzImage compressed with zstd. ${why}`,
      { cause },
    );
  }
}

/** The parts of a kit that a named kernel replaces. */
interface KernelParts {
  readonly id: string;
  readonly kernelVersion: string;
  readonly kernel: string;
  readonly modules: string;
}

/**
 * Assembles the parts for a kernel and its modules when they are missing. `kitId` identifies the kit that they complete.
 * @throws `invalid_argument` when the files are not a kernel and its modules
 */
export async function provideNamedKernel(
  source: ImageSource,
  kitId: string,
  { kernel, modules }: NamedKernel,
  signal: AbortSignal | undefined,
): Promise<KernelParts> {
  const elf = await readKernel(kernel);
  const kernelVersion = versionOf(elf, kernel);
  if (modules !== undefined && basename(modules) !== kernelVersion) {
    throw new SandboxError(
      "invalid_argument",
      `The guest kernel ${kernel} is Linux ${kernelVersion}, and ${modules} is not its module tree: name a directory ${kernelVersion} that depmod has indexed`,
    );
  }
  const hash = createHash("sha256").update(kitId).update(elf);
  for (const file of modules === undefined ? [] : await moduleFiles(modules)) {
    hash.update(`\n${file} ${await hashOfFile(join(modules ?? "", file))}`);
  }
  const id = hash.digest("hex");
  const { directory } = await provideArtifact({
    kind: "kit-kernel",
    ...artifactPlace(source),
    inputs: { id },
    needMib: 500,
    signal,
    build: async (target) => {
      await writeFile(join(target, "vmlinux"), elf);
      const tree = join(target, "modules", kernelVersion);
      await mkdir(tree, { recursive: true });
      if (modules !== undefined) await cp(modules, tree, { recursive: true, preserveTimestamps: true });
      return { id, kernelVersion };
    },
  });
  return { id, kernelVersion, kernel: join(directory, "vmlinux"), modules: join(directory, "modules") };
}

/** The kernel's own name for itself, as `uname -r` prints it. */
function versionOf(elf: Buffer, file: string): string {
  const text = elf.indexOf("Linux version ");
  const version =
    text < 0 ? undefined : /^Linux version ([\w.+~-]+) /.exec(elf.toString("latin1", text, text + 200))?.[1];
  if (version !== undefined) return version;
  throw new SandboxError("invalid_argument", `The guest kernel ${file} is an ELF file without a version of Linux`);
}

async function moduleFiles(modules: string): Promise<readonly string[]> {
  try {
    const entries = await readdir(modules, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name));
    return files.map((file) => file.slice(modules.length + 1)).toSorted();
  } catch (cause) {
    throw new SandboxError(
      "invalid_argument",
      `Cannot read the modules of the guest kernel in ${modules}: ${String(cause)}`,
      {
        cause,
      },
    );
  }
}

const greeting = "opensandbox: the guest kernel runs";

/** An ELF program without libraries, which prints the greeting and powers the machine off. */
function greetingProgram(): Buffer {
  const message = Buffer.from(`${greeting}\n`);
  const code = Buffer.from(instructions.join("").replace("length", hexOf32(message.length)), "hex");
  const header = Buffer.alloc(120);
  const size = header.length + code.length + message.length;
  const address = 0x400000;
  // Elf64_Ehdr: 64 bits, little-endian; an executable for x86-64 with one program header.
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1], 0);
  header.writeUInt16LE(2, 16);
  header.writeUInt16LE(62, 18);
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(address + header.length), 24);
  header.writeBigUInt64LE(64n, 32);
  header.writeUInt16LE(64, 52);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(1, 56);
  // Elf64_Phdr: the whole file, readable and executable.
  header.writeUInt32LE(1, 64);
  header.writeUInt32LE(5, 68);
  header.writeBigUInt64LE(BigInt(address), 80);
  header.writeBigUInt64LE(BigInt(address), 88);
  header.writeBigUInt64LE(BigInt(size), 96);
  header.writeBigUInt64LE(BigInt(size), 104);
  header.writeBigUInt64LE(0x1000n, 112);
  return Buffer.concat([header, code, message]);
}

function hexOf32(value: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes.toString("hex");
}

const instructions = [
  "b801000000", //       mov eax, 1           write(1, message, length)
  "bf01000000", //       mov edi, 1
  "488d3526000000", //   lea rsi, [rip+38]    behind the last instruction
  "balength", //         mov edx, length
  "0f05", //             syscall
  "b8a9000000", //       mov eax, 169         reboot(magic, magic, power off)
  "bfaddee1fe", //       mov edi, 0xfee1dead
  "be69191228", //       mov esi, 0x28121969
  "badcfe2143", //       mov edx, 0x4321fedc
  "0f05", //             syscall
  "b822000000", //       mov eax, 34          pause(), for ever: the end of process 1 is a panic
  "0f05", //             syscall
  "ebf7", //             jmp to the mov above
];
