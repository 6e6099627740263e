import { z } from "zod";
import type { Route } from "../../route.ts";

export const getConsole: Route = {
  method: "GET",
  path: "/api/sandboxes/:id/console",
  name: "getConsole",
  summary: "Read the end of the console output of a sandbox's machine",
  description: "Plain text from the guest's kernel and its init. A hibernated sandbox is not woken.",
  access: "key",
  status: 200,
  bytesOut: true,
};

const ReadyTemplate = z
  .object({
    ...{ image: z.string(), memoryMB: z.int(), cpuCount: z.int(), wanted: z.int(), ready: z.int() },
  })
  .meta({ id: "ReadyTemplate" });

const ReadyMachinesReply = z
  .object({
    wanted: z.int().meta({
      description: "How many the server keeps ready now: up to OPENSANDBOX_READY_MACHINES for each template.",
    }),
    ready: z.int().meta({ description: "How many are ready now." }),
    image: z.string().optional().meta({
      description: "The image of the template in the highest demand. Absent: no sandbox has used one lately.",
    }),
    memoryMB: z.int().optional().meta({ description: "Memory of that template." }),
    cpuCount: z.int().optional().meta({ description: "vCPUs of that template's machines." }),
    templates: z.array(ReadyTemplate).meta({
      description: "The templates that sandboxes have used lately, those in higher demand first.",
    }),
  })
  .meta({ id: "ReadyMachines" });
type ReadyMachinesReply = z.infer<typeof ReadyMachinesReply>;

export const getReadyMachines: Route<unknown, unknown, ReadyMachinesReply> = {
  method: "GET",
  path: "/api/pool",
  name: "getReadyMachines",
  summary: "Get how many machines are ready for new sandboxes",
  description: "A create brings a machine of its image to its own memory, vCPUs and disk.",
  access: "key",
  status: 200,
  reply: ReadyMachinesReply,
};
