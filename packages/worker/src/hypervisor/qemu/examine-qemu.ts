import { runCommand } from "#host/run-command.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { QemuHost } from "./command-line.ts";
import { examineKvm, type KvmFindings } from "../kvm-access.ts";
import { readProcessor } from "../processor.ts";
import { type KernelProbe, type Probe, probeAccelerator } from "./probe-accelerator.ts";
import { whyNoVhostNet } from "./vhost-net.ts";

export interface ExaminedQemu extends QemuHost {
  readonly version: string;
  /** Why this accelerator was chosen and what the probe returned, for people. */
  readonly reason: string;
  /** Why QEMU itself moves the packets of a TAP under KVM. */
  readonly noVhost?: string;
  /** The remedy that would make KVM usable. */
  readonly fix?: string;
}

export interface ExamineOptions {
  readonly program: string;
  readonly wanted: "auto" | "kvm" | "tcg";
  /** The processor of guests under KVM: `host` or a model of QEMU. Absent: `host`. */
  readonly cpuModel?: string;
  /** The kernel of guests, if it is not Debian's. */
  readonly kernel?: KernelProbe;
  /** Runs a guest under KVM before KVM is chosen. */
  readonly probe?: Probe;
  /** Replaced by tests. */
  readonly findKvm?: typeof examineKvm;
}

const oldest = [9, 0] as const;

/**
 * Finds QEMU and the accelerator that runs a guest. KVM is chosen only when a probe has run one. With a kernel of the
 * operator, the probe boots that kernel, under TCG as well.
 * @throws `unavailable` when QEMU is missing or too old, KVM was asked for and does not work, or the kernel does not boot
 */
export async function examineQemu(options: ExamineOptions): Promise<ExaminedQemu> {
  const { program, wanted, cpuModel = "host", kernel, probe = probeAccelerator, findKvm = examineKvm } = options;
  const version = await qemuVersion(program);
  const tcg = { program, version, accelerator: "tcg", processor: "" } as const;
  if (wanted === "tcg") return await emulated("OPENSANDBOX_ACCEL=tcg");
  const help = () => runCommand("list QEMU's options", [program, "-help"]);
  const found = await findKvm(help, { anyProcessor: kernel !== undefined });
  if (!found.usable) return await withoutKvm(found);
  const processor = cpuModel === "host" ? await readProcessor() : "";
  const noVhost = whyNoVhostNet();
  const vhost = noVhost === undefined ? { vhostNet: true } : { vhostNet: false, noVhost };
  const kvm = { ...tcg, accelerator: "kvm", kvmAccess: found.access, cpuModel, processor, ...vhost } as const;
  const { works, detail } = await probe(kvm, { kernel });
  const model = cpuModel === "host" ? [] : [`guests have the processor model ${cpuModel}`];
  const reason = [found.reason, ...model, detail].join("; ");
  return works ? { ...kvm, reason } : await withoutKvm({ usable: false, reason });

  async function withoutKvm({ reason, fix }: KvmFindings & { readonly usable: false }): Promise<ExaminedQemu> {
    if (wanted === "auto") return { ...(await emulated(reason)), ...(fix === undefined ? {} : { fix }) };
    const remedy = fix === undefined ? "" : ` To use it, ${fix}.`;
    throw new SandboxError("unavailable", `KVM does not work here: ${reason}.${remedy} Or use OPENSANDBOX_ACCEL=tcg`);
  }

  async function emulated(reason: string): Promise<ExaminedQemu> {
    if (kernel === undefined) return { ...tcg, reason };
    const { works, detail } = await probe(tcg, { kernel });
    if (works) return { ...tcg, reason: `${reason}; ${detail}` };
    throw new SandboxError(
      "unavailable",
      `The guest kernel ${kernel.file} does not boot: ${detail}. Without KVM: ${reason}. Unset OPENSANDBOX_GUEST_KERNEL to use Debian's`,
    );
  }
}

async function qemuVersion(program: string): Promise<string> {
  const needed = `QEMU ${oldest.join(".")} or newer is needed; ./opensandbox setup installs it`;
  let text: string;
  try {
    text = await runCommand("look for QEMU", [program, "--version"]);
  } catch (cause) {
    throw new SandboxError("unavailable", `${program} does not run. ${needed}`, { cause });
  }
  const version = /version (\d+)\.(\d+)(\.\d+)?/.exec(text);
  if (version === null) {
    throw new SandboxError("unavailable", `${program} prints no version. ${needed}`);
  }
  const [major, minor] = [Number(version[1]), Number(version[2])];
  if (major < oldest[0] || (major === oldest[0] && minor < oldest[1])) {
    throw new SandboxError("unavailable", `${program} is QEMU ${major}.${minor}. ${needed}`);
  }
  return version[0].slice("version ".length);
}
