import type { CgroupLimits } from "#host/cgroups/cgroups.ts";
import type { Host } from "../host.ts";
import type { LiveMachine } from "../live-machine.ts";

/**
 * Memory of a machine's process beside its guest's, in MiB: QEMU and its buffers take up to 100 MiB, translated code under
 * TCG up to 256 MiB (`tb-size`), and the page cache of the machine's disks has the rest.
 */
const overheadMib = { tcg: 768, other: 512 } as const;

/** Page tables and the structures of KVM take less than this share of the guest's memory. */
const tablesShare = 1 / 64;

/** QEMU's pool for disk requests has up to 64 threads; a few serve devices and the monitor. */
const maxHelperTasks = 128;

/** The highest weight of the I/O scheduler BFQ. */
const maxIoWeight = 1000;

/** The limits of a machine's cgroup, except for its memory. A machine with more vCPUs has more weight. Pure. */
export function machineLimits({ vcpus }: { readonly vcpus: number }): CgroupLimits {
  return { ...weightsOf(vcpus), maxTasks: maxHelperTasks + vcpus };
}

function weightsOf(vcpus: number): Pick<CgroupLimits, "cpuWeight" | "ioWeight"> {
  const weight = 100 * vcpus;
  return { cpuWeight: weight, ioWeight: Math.min(maxIoWeight, weight) };
}

/**
 * The memory limit of the cgroup of a machine whose guest has `memoryMib`. A guest that uses all its memory stays below.
 * The limit bounds the page cache of its disks and a process that misbehaves. Pure.
 */
export function memoryLimitBytes(memoryMib: number, accelerator: string): number {
  const ofProcess = accelerator === "tcg" ? overheadMib.tcg : overheadMib.other;
  return (memoryMib + Math.ceil(memoryMib * tablesShare) + ofProcess) * 2 ** 20;
}

/** Processor time of a machine's process beside its vCPUs, in percent of one processor: its devices have a thread. */
const helperPercent = 50;

/**
 * Gives a running machine the share of the host's processors of a sandbox with `vcpus`, and at most `cpuPercent` of one
 * processor for them. The machine may have more vCPUs, which the root user of its guest can bring online.
 */
export async function limitProcessorsOf(
  { cgroup }: LiveMachine,
  { vcpus, cpuPercent = 100 * vcpus }: { readonly vcpus: number; readonly cpuPercent?: number | undefined },
): Promise<void> {
  await cgroup?.setLimits({ ...weightsOf(vcpus), cpuPercent: cpuPercent + helperPercent });
}

/** Fits the cgroup of a running machine to the memory that its guest has now. */
export async function limitMemoryOf({ id, cgroup }: LiveMachine, memoryMib: number, host: Host): Promise<void> {
  if (cgroup === undefined) return;
  const memoryBytes = memoryLimitBytes(memoryMib, host.description.accelerator.name);
  const { anonymousBytes = 0 } = await cgroup.usage();
  if (anonymousBytes > memoryBytes) {
    // The kernel would end the machine. The earlier limit stays until the size changes again.
    const usedMib = Math.round(anonymousBytes / 2 ** 20);
    host.log("warn", "a machine uses more host memory than its new size allows", { machine: id, usedMib, memoryMib });
    return;
  }
  await cgroup.setLimits({ memoryBytes });
}
