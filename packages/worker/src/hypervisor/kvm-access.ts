import { openSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { userInfo } from "node:os";
import { tryCreateKvmMachine } from "#host/kernel/libc.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ProcessUser } from "./vm-process.ts";

/**
 * How QEMU's process, which has no right to /dev/kvm, gets access to it (docs/decisions/0016).
 * - `descriptor`: the worker opens the device and QEMU inherits it.
 * - `group`: QEMU runs with the device's group and opens the device itself.
 * - `user`: QEMU runs as this process's user, which has the right.
 */
export type KvmAccess =
  | { readonly by: "descriptor" }
  | { readonly by: "group"; readonly gid: number }
  | { readonly by: "user" };

export const kvmDevice = "/dev/kvm";

/** The device, open for QEMU to inherit. @throws `not_supported` with what to do */
export function openKvm(): number {
  try {
    return openSync(kvmDevice, "r+");
  } catch (cause) {
    const code = String((cause as NodeJS.ErrnoException).code);
    throw new SandboxError("not_supported", `Cannot open ${kvmDevice} (${code}). ${seeDoctor}`, { cause });
  }
}

export function withKvmGroup(user: ProcessUser, access: KvmAccess | undefined): ProcessUser {
  return access?.by === "group" ? { ...user, groups: [...(user.groups ?? []), access.gid] } : user;
}

const seeDoctor = "./opensandbox doctor tries the accelerator and names the remedy";

/**
 * The error of a QEMU that its accelerator kept from starting. The accelerator would refuse the next start too, so the
 * error is `not_supported`, which ends the attempts to start the machine. Undefined: QEMU ended for another reason.
 */
export function acceleratorFailure(
  said: string,
  { accelerator }: { readonly accelerator: "kvm" | "tcg" },
): SandboxError | undefined {
  // QEMU warns about KVM in every start of a machine that may have more vCPUs than the host has processors.
  const messages = said.split(/; |\n/).filter((message) => !message.includes(": warning: "));
  if (accelerator !== "kvm" || !messages.some((message) => kvmMessages.test(message))) return undefined;
  return new SandboxError("not_supported", `KVM starts no machine on this host: ${said}. ${seeDoctor}`);
}

/** Messages of QEMU's accel/kvm/kvm-all.c, and of its option parser for `-accel` and `-add-fd`. */
const kvmMessages = /Could not access KVM|failed to initialize kvm|ioctl\(KVM_CREATE_VM\)|-accel kvm|-add-fd/i;

/** What stands between this process and KVM, found without starting a guest. */
export type KvmFindings =
  | { readonly usable: true; readonly access: KvmAccess; readonly reason: string }
  | { readonly usable: false; readonly reason: string; readonly fix?: string };

/**
 * Looks at the processor, the device and the hypervisor. `help` is QEMU's own list of its options, and empty for
 * another `hypervisor`.
 *
 * A processor without vmx and svm is refused here and not left to a probe: inside some virtual machines /dev/kvm
 * emulates the first instructions of any guest, yet no stock kernel boots there. `anyProcessor` leaves it to the probe:
 * the operator names a kernel that may boot there.
 */
export async function examineKvm(
  help: () => Promise<string>,
  { anyProcessor, hypervisor = "QEMU" }: { readonly anyProcessor: boolean; readonly hypervisor?: string },
): Promise<KvmFindings> {
  const feature = processorFeature(await readFile("/proc/cpuinfo", "utf8"));
  const refused = tryCreateKvmMachine(kvmDevice);
  if (feature === undefined && !(anyProcessor && refused === undefined)) {
    const although = refused === undefined ? `, although ${kvmDevice} creates machines` : "";
    return { usable: false, reason: `the processor shows neither vmx nor svm${although}` };
  }
  const processor = feature === undefined ? "the processor shows neither vmx nor svm" : `the processor has ${feature}`;
  if (refused === "EACCES" || refused === "EPERM") return await forbidden(processor);
  if (refused !== undefined) {
    const load = `sudo modprobe ${feature === "vmx" ? "kvm_intel" : "kvm_amd"}`;
    return {
      usable: false,
      reason: `${processor}, but ${kvmDevice} creates no machine (${refused})`,
      ...(refused === "ENOENT" ? { fix: `load the kernel's module: ${load}` } : {}),
    };
  }
  const access = await chooseAccess(await help());
  if (access === undefined) {
    return {
      usable: false,
      reason: `this ${hypervisor} cannot take an open ${kvmDevice}, and no group could give its process access to the device`,
      fix: `${hypervisor === "QEMU" ? "use QEMU 9.2 or newer, or " : ""}give ${kvmDevice} to a group with mode 0660`,
    };
  }
  return { usable: true, access, reason: `${processor}; ${describeAccess(access, hypervisor)}` };
}

export function processorFeature(cpuinfo: string): "vmx" | "svm" | undefined {
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.split(" ") ?? [];
  return (["vmx", "svm"] as const).find((feature) => flags.includes(feature));
}

async function chooseAccess(help: string): Promise<KvmAccess | undefined> {
  const { gid, mode } = await stat(kvmDevice);
  return accessFor({ help, root: process.getuid?.() === 0, gid, mode });
}

/** Pure: the way to the device for a QEMU with these options. */
export function accessFor(facts: {
  readonly help: string;
  readonly root: boolean;
  readonly gid: number;
  readonly mode: number;
}): KvmAccess | undefined {
  // The property `device` came with QEMU 9.2.
  if (/^\s+device=path \(KVM/m.test(facts.help)) return { by: "descriptor" };
  if (!facts.root) return { by: "user" };
  const groupMayUse = (facts.mode & 0o060) === 0o060;
  // The group of root would open far more than this device.
  return groupMayUse && facts.gid !== 0 ? { by: "group", gid: facts.gid } : undefined;
}

function describeAccess(access: KvmAccess, hypervisor: string): string {
  switch (access.by) {
    case "descriptor":
      return `${hypervisor} inherits ${kvmDevice} open`;
    case "group":
      return `${hypervisor} opens ${kvmDevice} by its group (${access.gid})`;
    case "user":
      return `${hypervisor} opens ${kvmDevice} as this user`;
  }
}

/** The device is there and refuses this user. */
async function forbidden(processor: string): Promise<KvmFindings> {
  const { gid, mode } = await stat(kvmDevice);
  const group = groupName(await readFile("/etc/group", "utf8"), gid);
  const user = userInfo().username;
  const rights = `${(mode & 0o777).toString(8).padStart(4, "0")}, group ${group ?? gid}`;
  return {
    usable: false,
    reason: `${processor}, but user ${user} may not open ${kvmDevice} (mode ${rights})`,
    fix: remedyFor({ user, group, gid, mode }),
  };
}

/** Pure: what lets the user open the device. */
export function remedyFor(facts: {
  readonly user: string;
  readonly group: string | undefined;
  readonly gid: number;
  readonly mode: number;
}): string {
  const groupMayUse = (facts.mode & 0o060) === 0o060;
  if (!groupMayUse || facts.gid === 0 || facts.group === undefined) {
    return `run as root, or let udev give ${kvmDevice} to a group with mode 0660 and join that group`;
  }
  return `type: sudo usermod -aG ${facts.group} ${facts.user}, then log in again`;
}

export function groupName(groups: string, gid: number): string | undefined {
  return groups
    .split("\n")
    .map((line) => line.split(":"))
    .find((fields) => fields[2] === String(gid))?.[0];
}
