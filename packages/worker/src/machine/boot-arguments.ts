import { bootsOnOneProcessor, type Reshaping } from "./shape/template-shape.ts";

const common: readonly string[] = [
  "console=ttyS0",
  "quiet",
  // A panic resets at once, which the hypervisor reports.
  "panic=-1",
  "reboot=t",
  // Hotplugged memory holds only movable pages, so that it can be taken back.
  "memhp_default_state=online_movable",
  // A machine whose memory may reach above 4 GiB gets 64 MiB of bounce buffers, which no virtio device needs.
  "swiotlb=noforce",
];

/**
 * For a machine with spare vCPUs: the kernel boots on the first processor, and the agent brings online those that the
 * sandbox has. A second processor must not run while the kernel looks for PCI devices: QEMU's emulator may then pass an
 * access to a processor's own registers to another device (decision 49). The kernel also leaves its locks as they are
 * for several processors, because changing them all would delay the first processor that comes online.
 */
const firstProcessorOnly: readonly string[] = ["maxcpus=1", "noreplace-smp"];

/** The kernel's command line of a machine with `vcpus`. Pure. */
export function bootArguments(
  vcpus: number,
  restoring: Pick<Reshaping, "sparesProcessors"> | undefined,
): readonly string[] {
  return bootsOnOneProcessor(vcpus, restoring) ? [...common, ...firstProcessorOnly] : common;
}
