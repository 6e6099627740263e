import { z } from "zod";
import type { Route } from "../../route.ts";

const WorkerReply = z
  .object({
    id: z.string(),
    state: z.enum(["up", "silent"]).meta({ description: "silent: it has not answered its server for some seconds." }),
    cordoned: z.boolean().meta({ description: "It gets no new sandboxes." }),
    draining: z.boolean().meta({ description: "Its sandboxes leave it." }),
    seenAt: z.iso.datetime().optional().meta({ description: "When it last answered." }),
    hypervisor: z.string(),
    cpuModel: z.string().optional(),
    freeMemoryMB: z.int().optional().meta({ description: "Memory that new machines can get." }),
    totalMemoryMB: z.int().optional(),
    freeDiskPercent: z.int().optional(),
    sandboxes: z.int().meta({ description: "Sandboxes that run on it." }),
  })
  .meta({ id: "Worker" });
export type WorkerReply = z.infer<typeof WorkerReply>;

export const listWorkers: Route<unknown, unknown, WorkerReply[]> = {
  method: "GET",
  path: "/api/workers",
  name: "listWorkers",
  summary: "List the workers of the fleet, and what each has free",
  description: "Requires a key with the scope `admin:read`. A server without a fleet has one worker.",
  access: "key",
  status: 200,
  reply: z.array(WorkerReply),
};
