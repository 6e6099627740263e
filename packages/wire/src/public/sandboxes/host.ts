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

const ReadyMachinesReply = z
  .object({
    wanted: z.int().meta({ description: "How many the server keeps ready: OPENSANDBOX_READY_MACHINES." }),
    ready: z.int().meta({ description: "How many are ready now." }),
    image: z.string().optional().meta({ description: "Their image. Absent: no sandbox was created yet." }),
    memoryMB: z.int().optional(),
    cpuCount: z.int().optional(),
  })
  .meta({ id: "ReadyMachines" });
type ReadyMachinesReply = z.infer<typeof ReadyMachinesReply>;

export const getReadyMachines: Route<unknown, unknown, ReadyMachinesReply> = {
  method: "GET",
  path: "/api/pool",
  name: "getReadyMachines",
  summary: "Get how many machines are ready for new sandboxes",
  description: "They have the image and the shape of the last create.",
  access: "key",
  status: 200,
  reply: ReadyMachinesReply,
};
