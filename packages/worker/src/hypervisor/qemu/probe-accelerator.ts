import { createHash } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import { startVmProcess, type VmProcess } from "../vm-process.ts";
import { kernelProbeCommandLine, probeCommandLine, type QemuHost } from "./command-line.ts";
import { openKvm, withKvmGroup } from "../kvm-access.ts";
import { readEnd } from "../process-log.ts";

export interface ProbeResult {
  readonly works: boolean;
  /** The outcome, for people. */
  readonly detail: string;
}

/**
 * Whether a guest runs under the host's accelerator: QEMU is started as for a machine (a user without rights, an empty
 * network, its system call filter, the same processor) and its guest computes a number in 64-bit mode.
 * A failure is a result, not an error.
 */
export async function probeAccelerator(host: QemuHost, options: ProbeOptions = {}): Promise<ProbeResult> {
  const directory = await mkdtemp(join(tmpdir(), "osb-probe-"));
  try {
    return await runGuest(host, directory, options);
  } catch (error) {
    return { works: false, detail: asSandboxError(error).message };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

export interface ProbeOptions {
  /** 64 KiB that the guest runs instead of {@link firmware}. */
  readonly firmware?: Buffer;
  /** A kernel that is booted instead of the firmware. */
  readonly kernel?: KernelProbe | undefined;
  readonly timeoutMs?: number;
}

/** A kernel that an operator named, and the means to see it run. */
export interface KernelProbe {
  /** Where the kernel comes from, for people. */
  readonly file: string;
  readonly elf: Uint8Array;
  /** Its `/init` prints the greeting and powers off. */
  readonly initramfs: Uint8Array;
  readonly greeting: string;
}

/**
 * Firmware takes 0.1 s, and 1.2 s under KVM on a host that is itself emulated in software. A kernel takes 2 s, and 30 s
 * there.
 */
const probeTimeoutMs = { firmware: 30_000, kernel: 180_000 } as const;

async function runGuest(host: QemuHost, directory: string, options: ProbeOptions): Promise<ProbeResult> {
  const { kernel } = options;
  const log = join(directory, "log");
  const since = performance.now();
  await using qemu =
    kernel === undefined
      ? await startProbe(host, directory, probeCommandLine(host), [options.firmware ?? firmware()])
      : await startProbe(host, directory, kernelProbeCommandLine(host), [kernel.elf, kernel.initramfs]);
  const { timeoutMs = probeTimeoutMs[kernel === undefined ? "firmware" : "kernel"] } = options;
  const { promise: timedOut, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => resolve(undefined), timeoutMs);
  const end = await Promise.race([qemu.exited, timedOut]).finally(() => clearTimeout(timer));
  const took = `${Math.round(performance.now() - since)} ms`;
  // A backtrace may follow the line that says why a kernel panicked.
  const panic = /Kernel panic[^\r\n]*/.exec(await readFile(log, "utf8"))?.[0];
  const said = panic ?? (await readEnd(log));
  const because = said === "" ? "" : `: ${said}`;
  // A kernel that cannot power its machine off has run all the same.
  if (kernel !== undefined && said.includes(kernel.greeting)) {
    return { works: true, detail: `the guest kernel ${kernel.file} ran in ${took}` };
  }
  if (end === undefined) return { works: false, detail: `a probe guest did not end within ${timeoutMs} ms${because}` };
  if (end.code === expectedExitCode) return { works: true, detail: `a probe guest ran in ${took}` };
  const how = end.signal === null ? `exited with ${end.code}` : `was ended by ${end.signal}`;
  return { works: false, detail: `a probe guest did not run: QEMU ${how} after ${took}${because}` };
}

/** QEMU opens each of `files` again, as its own user, by an inherited descriptor. */
async function startProbe(
  host: QemuHost,
  directory: string,
  argv: [string, ...string[]],
  files: readonly Uint8Array[],
): Promise<VmProcess> {
  const paths = files.map((_, index) => join(directory, `${index}`));
  for (const [index, path] of paths.entries()) await writeFile(path, files[index] ?? "", { mode: 0o644 });
  const root = process.getuid?.() === 0;
  return await startVmProcess({
    argv,
    logFile: join(directory, "log"),
    cwd: "/",
    env: { PATH: "/usr/bin:/bin" },
    ...(root ? { user: withKvmGroup(probeUser, host.kvmAccess), namespace: "new" } : {}),
    openInherited() {
      const opened: number[] = [];
      try {
        for (const path of paths) opened.push(openSync(path, "r"));
        if (host.kvmAccess?.by === "descriptor") opened.push(openKvm());
        return opened;
      } catch (error) {
        for (const fd of opened) closeSync(fd);
        throw error;
      }
    },
  });
}

/** The first id after the users of machines (one for each of the 16384 slots of a host, from 1900000000 on). */
const probeUser = { uid: 1_900_016_384, gid: 1_900_016_384 } as const;

/** `isa-debug-exit` exits with 2 n + 1, where n is the low byte of 1 + 2 + ... + 1000. */
const expectedExitCode = (((1000 * 1001) / 2) % 256) * 2 + 1;

/**
 * The program of the probe's guest, mapped so that the processor begins at its last 16 bytes. It goes from real mode to
 * 64-bit mode with paging, adds the numbers from 1 to 1000 up in memory, and writes the low byte of the sum to port 0xf4.
 */
function firmware(): Buffer {
  const rom = Buffer.alloc(64 * 1024);
  rom.set(Buffer.from(program.join(""), "hex"), 0xf000);
  // ljmp 0xf000:0xf000
  rom.set([0xea, 0x00, 0xf0, 0x00, 0xf0], 0xfff0);
  return rom;
}

/** At address 0xff000. */
const program = [
  "fa", //                   cli
  "31c0", //                 xor ax, ax
  "8ed8", //                 mov ds, ax
  "c70600100320", //         mov word [0x1000], 0x2003   page tables: the first 2 MiB are mapped one to one
  "c70600200330", //         mov word [0x2000], 0x3003
  "c70600308300", //         mov word [0x3000], 0x0083
  "2e660f011688f0", //       lgdt cs:[0xf088]
  "66b820000000", //         mov eax, 0x20
  "0f22e0", //               mov cr4, eax                physical address extension
  "66b800100000", //         mov eax, 0x1000
  "0f22d8", //               mov cr3, eax
  "66b9800000c0", //         mov ecx, 0xc0000080
  "0f32", //                 rdmsr
  "0d0001", //               or ax, 0x100
  "0f30", //                 wrmsr                       EFER: long mode
  "0f20c0", //               mov eax, cr0
  "660d01000080", //         or eax, 0x80000001
  "0f22c0", //               mov cr0, eax                protection and paging
  "66ea51f00f000800", //     ljmp 0x8:0xff051
  "b9e8030000", //           mov ecx, 1000               64-bit mode
  "48010c2500400000", //     add [0x4000], rcx
  "e2f6", //                 loop the line before
  "488b042500400000", //     mov rax, [0x4000]
  "48c1e020", //             shl rax, 32
  "48c1e820", //             shr rax, 32
  "e6f4", //                 out 0xf4, al
  "f4", //                   hlt
  "ebfd", //                 jmp to the line before
  "0f1f00", //               padding
  "0000000000000000", //     descriptors: none,
  "ffff0000009baf00", //     64-bit code
  "0f0078f00f00", //         and where they are: 0xff078
];

export type Probe = (host: QemuHost & { readonly version: string }, options: ProbeOptions) => Promise<ProbeResult>;

/**
 * The result of {@link probeAccelerator}, asked once per host, start of its kernel, user and QEMU. Only success is
 * remembered: a remedy takes effect at the next start.
 */
export async function probeOnce(
  host: QemuHost & { readonly version: string },
  directory: string,
  { kernel, probe = probeAccelerator }: Pick<ProbeOptions, "kernel"> & { readonly probe?: Probe } = {},
): Promise<ProbeResult> {
  const file = join(directory, "accelerator-probe.json");
  const key = await probeKey(host, kernel);
  const known = await readProbe(file);
  if (known?.key === key) return { works: true, detail: `${known.detail}, at ${known.at}` };
  const result = await probe(host, { kernel });
  if (result.works) {
    const text = JSON.stringify({ key, detail: result.detail, at: new Date().toISOString() } satisfies StoredProbe);
    // A file for each process: several servers may share the directory.
    const temporary = `${file}.${process.pid}`;
    await writeFile(temporary, `${text}\n`, { mode: 0o600 });
    await rename(temporary, file);
  }
  return result;
}

interface StoredProbe {
  readonly key: string;
  readonly detail: string;
  readonly at: string;
}

async function readProbe(file: string): Promise<StoredProbe | undefined> {
  try {
    return JSON.parse(await readFile(file, "utf8")) as StoredProbe;
  } catch {
    // Absent, or written by a server that was killed: the probe is run again.
    return undefined;
  }
}

async function probeKey(
  host: QemuHost & { readonly version: string },
  kernel: KernelProbe | undefined,
): Promise<string> {
  const bootId = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  const { accelerator, kvmAccess, program, version, processor, cpuModel } = host;
  const qemu = [program, version, accelerator, kvmAccess, processor, cpuModel];
  const booted = kernel === undefined ? [] : [createHash("sha256").update(kernel.elf).digest("hex")];
  return JSON.stringify([bootId, release(), process.getuid?.(), ...qemu, ...booted]);
}
