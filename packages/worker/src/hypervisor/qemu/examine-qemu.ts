import { readFile } from "node:fs/promises";
import { canCreateKvmMachine } from "#host/libc.ts";
import { runCommand } from "#host/run-command.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";

export interface ExaminedQemu {
  readonly program: string;
  readonly version: string;
  readonly accelerator: "kvm" | "tcg";
  /** Why this accelerator, for people. */
  readonly reason: string;
  readonly vhostVsock: boolean;
  /** See `QemuHost.processor`. */
  readonly processor: string;
}

const oldest = [9, 0] as const;

/**
 * Finds out what QEMU is here and how it can run a guest.
 * @throws `unavailable` when QEMU is missing or too old, or KVM was asked for and does not work
 */
export async function examineQemu(program: string, wanted: "auto" | "kvm" | "tcg"): Promise<ExaminedQemu> {
  const version = await qemuVersion(program);
  const kvm = await examineKvm();
  if (wanted === "kvm" && !kvm.works) {
    throw new SandboxError("unavailable", `KVM does not work here: ${kvm.reason}. Use OPENSANDBOX_ACCEL=tcg`);
  }
  const accelerator = wanted === "auto" ? (kvm.works ? "kvm" : "tcg") : wanted;
  const reason = wanted === "auto" ? kvm.reason : `OPENSANDBOX_ACCEL=${wanted}`;
  const processor = accelerator === "kvm" ? describeProcessor(await readFile("/proc/cpuinfo", "utf8")) : "";
  return { program, version, accelerator, reason, vhostVsock: false, processor };
}

/** Model and features: memory of a guest that has seen them can only go on where they are the same. */
function describeProcessor(cpuinfo: string): string {
  const field = (name: string): string => new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(cpuinfo)?.[1] ?? "";
  return [field("model name"), field("stepping"), field("flags")].join("; ");
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
    throw new SandboxError("unavailable", `${program} says no version. ${needed}`);
  }
  const [major, minor] = [Number(version[1]), Number(version[2])];
  if (major < oldest[0] || (major === oldest[0] && minor < oldest[1])) {
    throw new SandboxError("unavailable", `this is QEMU ${major}.${minor}. ${needed}`);
  }
  return version[0].slice("version ".length);
}

/**
 * KVM works when the device can create a machine *and* the processor can run one: inside some virtual machines
 * /dev/kvm creates machines although the processor offers no vmx or svm, and no stock kernel ever boots in them.
 */
async function examineKvm(): Promise<{ readonly works: boolean; readonly reason: string }> {
  const cpuinfo = await readFile("/proc/cpuinfo", "utf8");
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.split(" ") ?? [];
  const feature = flags.find((flag) => flag === "vmx" || flag === "svm");
  const creates = canCreateKvmMachine();
  if (feature === undefined) {
    return {
      works: false,
      reason: `the processor shows neither vmx nor svm${creates ? ", although /dev/kvm creates machines" : ""}`,
    };
  }
  if (!creates)
    return {
      works: false,
      reason: `the processor has ${feature}, but /dev/kvm cannot be opened or creates no machine`,
    };
  return { works: true, reason: `the processor has ${feature} and /dev/kvm creates machines` };
}
