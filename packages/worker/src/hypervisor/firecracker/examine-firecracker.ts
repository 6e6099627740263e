import { access, constants, realpath } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { runCommand } from "#host/run-command.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { examineKvm } from "../kvm-access.ts";
import { readProcessor } from "../processor.ts";
import type { FirecrackerHost } from "./command-line.ts";

export interface ExaminedFirecracker extends FirecrackerHost {
  /** How machines reach KVM, for people. */
  readonly reason: string;
}

/** The first version with memory hotplug. Virtio devices on PCI, for which the guest's kernel has drivers, came before. */
const oldest = [1, 14] as const;

export interface FirecrackerOptions {
  /** A path, or a name in the PATH. */
  readonly program: string;
  readonly accelerator: "auto" | "kvm" | "tcg";
  /** Absent: `host`. */
  readonly cpuModel?: string;
}

/**
 * Finds Firecracker and everything that its machines need.
 * @throws `unavailable` when something is missing, with what to do; `not_supported` for a setting that only QEMU has
 */
export async function examineFirecracker(options: FirecrackerOptions): Promise<ExaminedFirecracker> {
  const { program: name, accelerator, cpuModel = "host" } = options;
  if (accelerator === "tcg") {
    throw new SandboxError(
      "not_supported",
      "Firecracker emulates no processor: leave OPENSANDBOX_ACCEL at auto or kvm",
    );
  }
  if (cpuModel !== "host") {
    throw new SandboxError(
      "not_supported",
      `Guests of Firecracker have the host's own processor: leave OPENSANDBOX_CPU_MODEL at host instead of ${cpuModel}`,
    );
  }
  const program = await findFirecracker(name);
  if (program === undefined) {
    throw new SandboxError(
      "unavailable",
      `${name} is not a program that can be run. Put a release of Firecracker in the PATH as firecracker, or set OPENSANDBOX_FIRECRACKER_BIN to its path`,
    );
  }
  const version = await versionOf(program);
  await requireStorageDaemon();
  const found = await examineKvm(async () => "", { anyProcessor: false, hypervisor: "Firecracker" });
  if (!found.usable) {
    const fix = found.fix === undefined ? "" : `. To use it, ${found.fix}`;
    throw new SandboxError(
      "unavailable",
      `Firecracker runs machines by KVM alone, and KVM does not work here: ${found.reason}${fix}`,
    );
  }
  const { access: kvmAccess, reason } = found;
  if (kvmAccess.by === "descriptor") throw new Error("Firecracker takes no open device");
  const filtersCalls = (await runCommand("list setpriv's options", ["setpriv", "--help"])).includes("--seccomp-filter");
  return {
    program: await realpath(program),
    version,
    kvmAccess,
    processor: await readProcessor(),
    filtersCalls,
    reason,
  };
}

/** The path of the program `name`, which may be a path itself; undefined without an executable file. */
export async function findFirecracker(name: string): Promise<string | undefined> {
  const directories = name.includes("/") ? [""] : (process.env["PATH"] ?? "").split(delimiter);
  for (const directory of directories) {
    const file = directory === "" ? name : join(directory, name);
    try {
      await access(file, constants.X_OK);
      return file;
    } catch {
      // The program may be in the next directory.
    }
  }
  return undefined;
}

async function versionOf(program: string): Promise<string> {
  const text = await runCommand("look for Firecracker", [program, "--version"]);
  const [, version, major, minor] = /^Firecracker v((\d+)\.(\d+)\.\S+)/m.exec(text) ?? [];
  const needed = `Firecracker ${oldest.join(".")} or newer is needed`;
  if (version === undefined) throw new SandboxError("unavailable", `${program} prints no version. ${needed}`);
  if (Number(major) < oldest[0] || (Number(major) === oldest[0] && Number(minor) < oldest[1])) {
    throw new SandboxError("unavailable", `${program} is Firecracker ${version}. ${needed}`);
  }
  return version;
}

/** The disks of machines are images of QEMU's format, which its storage daemon shows to Firecracker as raw files. */
async function requireStorageDaemon(): Promise<void> {
  const needed = "The disks of Firecracker's machines need qemu-storage-daemon with FUSE, of the package qemu-utils";
  let help: string;
  try {
    help = await runCommand("look for QEMU's storage daemon", ["qemu-storage-daemon", "--help"]);
    await access("/dev/fuse");
  } catch (cause) {
    throw new SandboxError("unavailable", `${needed}, and the kernel's module fuse`, { cause });
  }
  if (!help.includes("type=]fuse")) throw new SandboxError("unavailable", needed);
}
