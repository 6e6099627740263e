import type { WorkerDescription } from "@opensandbox/wire/worker/worker.ts";

/** What the workers of a fleet can do together: an image that one has, and the enforcement that all have. */
export function describeFleet(workers: readonly WorkerDescription[]): WorkerDescription {
  const [first] = workers;
  if (first === undefined) {
    const reason = "no worker has joined";
    return {
      ...{ hypervisor: "qemu", hypervisorVersion: "", images: [] },
      accelerator: { name: "none", reason },
      network: { mode: "none", reason },
    };
  }
  const notEnforced = [...new Set(workers.flatMap(({ network }) => network.notEnforced ?? []))];
  const weakest = workers.find(({ network }) => network.notEnforced !== undefined) ?? first;
  const { secrets: _, ...common } = first;
  return {
    ...common,
    ...(workers.every(({ secrets }) => secrets) ? { secrets: true } : {}),
    network: {
      mode: weakest.network.mode,
      reason: weakest.network.reason,
      ...(notEnforced.length === 0 ? {} : { notEnforced }),
    },
    images: [...new Set(workers.flatMap(({ images }) => images))],
  };
}
