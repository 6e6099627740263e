import { listWorkers } from "@opensandbox/wire/public/sandboxes/workers.ts";
import type { FastifyInstance } from "fastify";
import type { ApiContext } from "./api-context.ts";
import { serve } from "./serve.ts";

export function serveWorkers(app: FastifyInstance, { sandboxes }: ApiContext): void {
  const { worker, placement, stores } = sandboxes;
  serve(app, sandboxes.shutdown.ending, listWorkers, async () => {
    const reports = await placement.report?.();
    if (reports === undefined) {
      const { running = 0 } = (await stores.sandboxes.countHeld()).get(worker.id) ?? {};
      const { hypervisor } = worker.description;
      return [
        { id: worker.id, state: "up" as const, cordoned: false, draining: false, hypervisor, sandboxes: running },
      ];
    }
    return reports.map((report) => {
      const { id, state, cordoned, draining, seenAt, hypervisor, sandboxes: running } = report;
      const { cpuModel, freeMemoryMib, totalMemoryMib, freeDiskPercent } = report;
      return {
        ...{ id, state, cordoned, draining, hypervisor, sandboxes: running },
        ...(seenAt === undefined ? {} : { seenAt }),
        ...(cpuModel === undefined ? {} : { cpuModel }),
        ...(freeMemoryMib === undefined ? {} : { freeMemoryMB: freeMemoryMib }),
        ...(totalMemoryMib === undefined ? {} : { totalMemoryMB: totalMemoryMib }),
        ...(freeDiskPercent === undefined ? {} : { freeDiskPercent }),
      };
    });
  });
}
