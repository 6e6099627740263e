import { access, constants, readdir, statfs } from "node:fs/promises";
import { delimiter, dirname, join } from "node:path";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import { examineVsock } from "#host/examine-vsock.ts";
import { examineFirecracker } from "./hypervisor/firecracker/examine-firecracker.ts";
import { limits } from "./hypervisor/firecracker/limits.ts";
import { type ExaminedQemu, examineQemu } from "./hypervisor/qemu/examine-qemu.ts";
import { probeAccelerator } from "./hypervisor/qemu/probe-accelerator.ts";
import { type CgroupsOfProcess, findCgroups } from "./host/cgroups/find-cgroups.ts";
import { ioWeightsAct } from "./host/cgroups/io-schedulers.ts";
import { readServers } from "#network/names/host-resolvers.ts";
import { readExtraAuthorities } from "#guest/extra-authorities.ts";
import { lostAndFoundDirectory } from "./machine/journal.ts";
import { notEnforced } from "./not-enforced.ts";
import { type QemuOptions, qemuOptions, type WorkerOptions } from "./open-worker.ts";

type HostOptions = QemuOptions &
  Pick<WorkerOptions, "dataDirectory" | "agentTransport"> &
  Partial<Pick<WorkerOptions, "hypervisor" | "firecrackerProgram" | "extraAuthoritiesFile">>;

/** One fact about a host, as `doctor` prints it. */
export interface Finding {
  readonly name: string;
  readonly level: "ok" | "warn" | "fail";
  readonly detail: string;
  /** The remedy. */
  readonly fix?: string;
}

/** Programs that a worker runs, and their purpose. */
const programs = [
  { name: "mmdebstrap", for: "builds images" },
  { name: "mke2fs", for: "makes disks" },
  { name: "ip", for: "sets up the network of machines" },
  { name: "nft", for: "sets up the network of machines" },
  { name: "tc", for: "sets up the network of machines" },
] as const;

const setUp = "run ./opensandbox setup as root";

/** Examines everything that a worker needs and changes nothing. A missing part is a finding, never an error. */
export async function examineHost(options: HostOptions): Promise<readonly Finding[]> {
  const root = process.getuid?.() === 0;
  return [
    ...(await examineHypervisor(options)),
    ...(await Promise.all(programs.map(async (program) => await examineProgram(program)))),
    ...(options.hypervisor === "firecracker" ? [] : [examineAgentTransport(options.agentTransport)]),
    await examineNetwork(root, options.hypervisor),
    await examineCgroups(),
    ...(await examineExtraAuthorities(options.extraAuthoritiesFile)),
    ...(await examineDirectory(options.dataDirectory)),
    ...(await examineLostMachines(options.dataDirectory)),
  ];
}

async function examineExtraAuthorities(file: string | undefined): Promise<Finding[]> {
  if (file === undefined) return [];
  const name = "extra CA";
  try {
    const { count } = await readExtraAuthorities(file);
    return [
      {
        name,
        level: "ok",
        detail: `guests trust ${count === 1 ? "a certificate" : `${count} certificates`} of ${file}`,
      },
    ];
  } catch (error) {
    return [{ name, level: "fail", detail: asSandboxError(error).message }];
  }
}

async function examineHypervisor(options: HostOptions): Promise<Finding[]> {
  if (options.hypervisor === "firecracker") return await examineFirecrackerHost(options);
  try {
    const qemu = await examineQemu(await qemuOptions(options));
    return [{ name: "QEMU", level: "ok", detail: qemu.version }, await examineAccelerator(qemu), ...examineVhost(qemu)];
  } catch (error) {
    return [{ name: "QEMU", level: "fail", detail: asSandboxError(error).message, fix: setUp }];
  }
}

async function examineFirecrackerHost(options: HostOptions): Promise<Finding[]> {
  const name = "Firecracker";
  const { firecrackerProgram: program = "firecracker" } = options;
  try {
    const { version, reason, filtersCalls } = await examineFirecracker({ ...options, program });
    return [
      { name, level: "ok", detail: version },
      { name: "accelerator", level: "ok", detail: `kvm: ${reason}` },
      filtersCalls
        ? { name: "system calls", level: "ok", detail: "filtered by the worker, and by Firecracker if it is a release" }
        : {
            ...{ name: "system calls", level: "warn" },
            detail:
              "setpriv of this host loads no filter (util-linux is older than 2.41): Firecracker's own filter is the " +
              "only one, and a Firecracker that is built for the GNU C library has none",
            fix: "use a release of Firecracker, or Debian 13",
          },
      { name: "limits", level: "warn", detail: limits.join("; ") },
    ];
  } catch (error) {
    return [{ name, level: "fail", detail: asSandboxError(error).message }];
  }
}

/** A worker does not probe TCG, which every QEMU has. Here a failed probe of TCG explains machines that do not start. */
async function examineAccelerator(qemu: ExaminedQemu): Promise<Finding> {
  const name = "accelerator";
  const { reason, fix = "everything works, but slowly; for speed, use a host with hardware virtualisation" } = qemu;
  if (qemu.accelerator === "kvm") return { name, level: "ok", detail: `kvm: ${reason}` };
  const { works, detail } = await probeAccelerator(qemu);
  if (!works) return { name, level: "fail", detail: `tcg: ${reason}; ${detail}`, fix: setUp };
  return { name, level: "warn", detail: `tcg: ${reason}; under tcg ${detail}`, fix };
}

/** Nothing under TCG, which does not use vhost. */
function examineVhost({ accelerator, noVhost }: ExaminedQemu): Finding[] {
  if (accelerator === "tcg") return [];
  const name = "vhost-net";
  if (noVhost === undefined) return [{ name, level: "ok", detail: "the kernel moves the packets of machines" }];
  return [{ name, level: "warn", detail: `QEMU moves the packets of machines: ${noVhost}`, fix: vhostFix() }];
}

function vhostFix(): string {
  return process.getuid?.() === 0 ? "load the kernel's module: modprobe vhost_net" : "run as root";
}

async function examineProgram(program: { readonly name: string; readonly for: string }): Promise<Finding> {
  // The PATH of an ordinary user often lacks the directories for system tools.
  const directories = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  for (const directory of directories) {
    const file = join(directory, program.name);
    try {
      await access(file, constants.X_OK);
      return { name: program.name, level: "ok", detail: file };
    } catch {
      // The program may be in the next directory.
    }
  }
  return { name: program.name, level: "fail", detail: `not found; it ${program.for}`, fix: setUp };
}

/** virtio-serial works everywhere, so it is a fault only where vsock was asked for. */
function examineAgentTransport(wanted: HostOptions["agentTransport"]): Finding {
  const name = "agent channel";
  if (wanted === "virtio-serial") {
    return { name, level: "ok", detail: "virtio-serial: OPENSANDBOX_AGENT_TRANSPORT=virtio-serial" };
  }
  const found = examineVsock();
  if (found.usable) return { name, level: "ok", detail: `vsock: ${found.reason}` };
  if (wanted === "auto") {
    const remedy = found.fix === undefined ? "" : `; for vsock, ${found.fix}`;
    return { name, level: "ok", detail: `virtio-serial: ${found.reason}${remedy}` };
  }
  const fix = found.fix ?? "use OPENSANDBOX_AGENT_TRANSPORT=virtio-serial";
  return { name, level: "fail", detail: `vsock does not work here: ${found.reason}`, fix };
}

async function examineNetwork(root: boolean, hypervisor: HostOptions["hypervisor"]): Promise<Finding> {
  const name = "network";
  if (!root && hypervisor === "firecracker") {
    return { name, level: "fail", detail: "Firecracker has no network stack of its own", fix: "run as root" };
  }
  if (!root) {
    return {
      name,
      level: "warn",
      detail: `without root, machines use QEMU's own network: ${notEnforced.user.join("; ")}`,
      fix: "run as root to give each machine a network namespace",
    };
  }
  const servers = await readServers("/etc/resolv.conf");
  return {
    name,
    level: "ok",
    detail: `a network namespace for each machine; this host resolves names by ${servers.join(", ")}`,
  };
}

/** What limits a machine's share of this host, for a server that is started as this process was. */
export async function examineCgroups(process: CgroupsOfProcess = {}): Promise<Finding> {
  const name = "cgroups";
  const found = await findCgroups(process);
  if (!("missing" in found)) {
    return {
      name,
      level: "warn",
      detail: `none, so that one machine can starve the others: ${found.reason}`,
      fix: found.fix,
    };
  }
  const { hierarchies, missing } = found;
  const limited = hierarchies.flatMap(({ controllers }) => controllers);
  const [{ version, base }] = hierarchies;
  const where = version === 1 ? "cgroup v1" : `cgroup v2 below ${base}`;
  const idle = limited.includes("io") && !(await ioWeightsAct());
  const detail =
    `${limited.join(", ")} of each machine (${where})` +
    (idle ? "; weights of I/O act on disks with the scheduler bfq, and this host has none" : "");
  if (missing.length === 0) return { name, level: "ok", detail };
  const fix = `enable the ${missing.join(", ")} controller of cgroups for the server, such as by Delegate=yes in its unit`;
  return { name, level: "warn", detail: `${detail}; not limited: ${missing.join(", ")}`, fix };
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
      detail: `${directory} is not writable`,
      fix: "set OPENSANDBOX_DATA_DIR to a directory that you own",
    });
  }
  const { bavail, bsize } = await statfs(existing);
  const freeGib = (bavail * bsize) / 2 ** 30;
  // Building the default image takes just under 6 GiB at its peak.
  const enough = freeGib >= 8;
  findings.push({
    name: "disk space",
    level: enough ? "ok" : "warn",
    detail: `${freeGib.toFixed(1)} GiB free`,
    ...(enough ? {} : { fix: "free at least 8 GiB to build the default image" }),
  });
  return findings;
}

/** Nothing where no machine was set aside, or where this user may not look. */
async function examineLostMachines(dataDirectory: string): Promise<Finding[]> {
  const directory = lostAndFoundDirectory(dataDirectory);
  const machines = await readdir(directory).catch(() => []);
  if (machines.length === 0) return [];
  return [
    {
      name: "lost machines",
      level: "warn",
      detail: `the disks of ${machines.length} machines without a readable journal entry are in ${directory}`,
      fix: "copy out the files that you need, as docs/faults.md describes, and delete the directories",
    },
  ];
}

async function firstExisting(directory: string): Promise<string> {
  try {
    await access(directory);
    return directory;
  } catch {
    return await firstExisting(dirname(directory));
  }
}
