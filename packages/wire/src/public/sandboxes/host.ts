import { z } from "zod";
import type { Route } from "../../route.ts";

/** The end of what the guest's kernel and its first process have said. */
export const getConsole: Route = {
  method: "GET",
  path: "/api/sandboxes/:id/console",
  name: "getConsole",
  summary: "Read what the machine of a sandbox has written to its console, as far as it is kept",
  description: "Plain text: the kernel, and what starts and stops the guest agent. A sandbox that sleeps is not woken.",
  access: "key",
  status: 200,
  bytesOut: true,
};

const ReadyMachinesReply = z
  .object({
    wanted: z.int().meta({ description: "How many are kept: OPENSANDBOX_READY_MACHINES." }),
    ready: z.int().meta({ description: "How many wait at the moment." }),
    image: z.string().optional().meta({ description: "Of what image they are. Absent: none was asked for yet." }),
    memoryMB: z.int().optional(),
    cpuCount: z.int().optional(),
  })
  .meta({ id: "ReadyMachines" });
type ReadyMachinesReply = z.infer<typeof ReadyMachinesReply>;

export const getReadyMachines: Route<unknown, unknown, ReadyMachinesReply> = {
  method: "GET",
  path: "/api/pool",
  name: "getReadyMachines",
  summary: "How many machines wait to become a sandbox",
  description: "Those of the image and the shape that was asked for last.",
  access: "key",
  status: 200,
  reply: ReadyMachinesReply,
};
