import type { Metric } from "@opensandbox/control-plane";
import type { HeldSandbox } from "@opensandbox/wire/worker/worker.ts";
import type { HostStatus } from "@opensandbox/wire/worker/status.ts";

/** A worker as it sees itself. */
export function workerMetrics(status: HostStatus, sandboxes: readonly HeldSandbox[]): readonly Metric[] {
  const { freeMemoryMib, totalMemoryMib, freeDiskShare, readyMachines } = status;
  const gauge = (name: string, help: string, value: number): Metric => ({
    ...{ name, help, type: "gauge", samples: [{ value }] },
  });
  return [
    gauge("opensandbox_machines", "Machines that run.", sandboxes.filter(({ running }) => running).length),
    gauge(
      "opensandbox_machines_ended",
      "Machines that have ended and left their disks.",
      sandboxes.filter(({ running }) => !running).length,
    ),
    gauge("opensandbox_ready_machines", "Machines that are ready to become a sandbox.", readyMachines.ready),
    gauge("opensandbox_host_memory_free_bytes", "Memory that new machines can get.", freeMemoryMib * 2 ** 20),
    gauge("opensandbox_host_memory_bytes", "Memory of the host.", totalMemoryMib * 2 ** 20),
    gauge("opensandbox_host_disk_free_ratio", "Free share of the data directory's file system.", freeDiskShare),
  ];
}
