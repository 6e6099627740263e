import { access, constants, statfs } from "node:fs/promises";
import { delimiter, dirname, join } from "node:path";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import { type ExaminedQemu, examineQemu } from "./hypervisor/qemu/examine-qemu.ts";
import { probeAccelerator } from "./hypervisor/qemu/probe-accelerator.ts";
import { readServers } from "#network/names/host-resolvers.ts";
import { notEnforced } from "./not-enforced.ts";
import type { WorkerOptions } from "./open-worker.ts";

type HostOptions = Pick<WorkerOptions, "qemuProgram" | "accelerator" | "dataDirectory">;

/** One line of what a host can do. */
export interface Finding {
  readonly name: string;
  readonly level: "ok" | "warn" | "fail";
  readonly detail: string;
  /** What to do about it. */
  readonly fix?: string;
}

/** Programs that are run, and what does not work without them. */
const programs = [
  { name: "mmdebstrap", for: "images are built with it" },
  { name: "mke2fs", for: "disks are made with it" },
  { name: "ip", for: "machines get their network by it" },
  { name: "nft", for: "machines get their network by it" },
  { name: "tc", for: "machines get their network by it" },
] as const;

const setUp = "run ./opensandbox setup as root";

/** Looks at all that a worker needs, changing nothing. Never throws for what is missing: that is a finding. */
export async function examineHost(options: HostOptions): Promise<readonly Finding[]> {
  const root = process.getuid?.() === 0;
  return [
    ...(await examineHypervisor(options)),
    ...(await Promise.all(programs.map(async (program) => await examineProgram(program)))),
    await examineNetwork(root),
    ...(await examineDirectory(options.dataDirectory)),
  ];
}

async function examineHypervisor({ qemuProgram, accelerator }: HostOptions): Promise<Finding[]> {
  try {
    const qemu = await examineQemu({ program: qemuProgram, wanted: accelerator });
    return [{ name: "QEMU", level: "ok", detail: qemu.version }, await examineAccelerator(qemu)];
  } catch (error) {
    return [{ name: "QEMU", level: "fail", detail: asSandboxError(error).message, fix: setUp }];
  }
}

/** A worker takes TCG as given, since every QEMU has it; here it runs a guest too. */
async function examineAccelerator(qemu: ExaminedQemu): Promise<Finding> {
  const name = "accelerator";
  const { reason, fix = "everything works, slowly; use a host with hardware virtualisation for speed" } = qemu;
  if (qemu.accelerator === "kvm") return { name, level: "ok", detail: `kvm: ${reason}` };
  const { works, detail } = await probeAccelerator(qemu);
  if (!works) return { name, level: "fail", detail: `tcg: ${reason}; ${detail}`, fix: setUp };
  return { name, level: "warn", detail: `tcg: ${reason}; under tcg ${detail}`, fix };
}

async function examineProgram(program: { readonly name: string; readonly for: string }): Promise<Finding> {
  // As root's PATH often has it and a user's has not.
  const directories = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  for (const directory of directories) {
    const file = join(directory, program.name);
    try {
      await access(file, constants.X_OK);
      return { name: program.name, level: "ok", detail: file };
    } catch {
      // Not in this one.
    }
  }
  return { name: program.name, level: "fail", detail: `not found: ${program.for}`, fix: setUp };
}

async function examineNetwork(root: boolean): Promise<Finding> {
  const name = "network";
  if (!root) {
    return {
      name,
      level: "warn",
      detail: `without root machines use QEMU's own network: ${notEnforced.user.join("; ")}`,
      fix: "run as root for a network namespace for each machine",
    };
  }
  const servers = await readServers("/etc/resolv.conf");
  return {
    name,
    level: "ok",
    detail: `a network namespace for each machine; names are asked of ${servers.join(", ")}, from this host`,
  };
}

async function examineDirectory(directory: string): Promise<Finding[]> {
  const existing = await firstExisting(directory);
  const findings: Finding[] = [];
  try {
    await access(existing, constants.W_OK);
    findings.push({ name: "data directory", level: "ok", detail: directory });
  } catch {
    findings.push({
      name: "data directory",
      level: "fail",
      detail: `${directory} cannot be written to`,
      fix: "set OPENSANDBOX_DATA_DIR to a directory of yours",
    });
  }
  const { bavail, bsize } = await statfs(existing);
  const freeGib = (bavail * bsize) / 2 ** 30;
  // The default image and its build take a little under 6 GiB at their peak.
  const enough = freeGib >= 8;
  findings.push({
    name: "disk space",
    level: enough ? "ok" : "warn",
    detail: `${freeGib.toFixed(1)} GiB free`,
    ...(enough ? {} : { fix: "at least 8 GiB are needed to build the default image" }),
  });
  return findings;
}

async function firstExisting(directory: string): Promise<string> {
  try {
    await access(directory);
    return directory;
  } catch {
    return await firstExisting(dirname(directory));
  }
}
