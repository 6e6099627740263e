import type { Metric, Sample } from "../metrics/metric.ts";
import type { MemberReport } from "./fleet.ts";

/** The workers of a fleet as its server sees them. */
export function memberMetrics(members: readonly MemberReport[]): readonly Metric[] {
  const gauge = (name: string, help: string, valueOf: (member: MemberReport) => number | undefined): Metric => ({
    ...{ name, help, type: "gauge" },
    samples: members.flatMap((member): Sample[] => {
      const value = valueOf(member);
      return value === undefined ? [] : [{ labels: { worker: member.id }, value }];
    }),
  });
  const mebibytes = (mib: number | undefined): number | undefined => (mib === undefined ? undefined : mib * 2 ** 20);
  return [
    gauge("opensandbox_worker_up", "1: the worker answers and its sandboxes are in line with their rows.", (member) =>
      member.state === "up" ? 1 : 0,
    ),
    gauge("opensandbox_worker_cordoned", "1: the worker gets no new sandboxes.", ({ cordoned }) => (cordoned ? 1 : 0)),
    gauge("opensandbox_worker_sandboxes", "Running sandboxes of the worker.", ({ sandboxes }) => sandboxes),
    gauge("opensandbox_worker_memory_free_bytes", "Memory that new machines of the worker can get.", (member) =>
      mebibytes(member.freeMemoryMib),
    ),
    gauge("opensandbox_worker_memory_bytes", "Memory of the worker's host.", (member) =>
      mebibytes(member.totalMemoryMib),
    ),
    gauge("opensandbox_worker_disk_free_ratio", "Free share of the worker's disk.", ({ freeDiskPercent }) =>
      freeDiskPercent === undefined ? undefined : freeDiskPercent / 100,
    ),
  ];
}
