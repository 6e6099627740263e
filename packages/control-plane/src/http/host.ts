import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/sandboxes/host.ts";
import type { FastifyInstance } from "fastify";
import { readConsole } from "#sandboxes/read-console.ts";
import type { ApiContext } from "./api-context.ts";
import { answered, serve } from "./serve.ts";

/** Serves the consoles of machines and the state of the ready machines. */
export function serveHost(app: FastifyInstance, { sandboxes }: ApiContext): void {
  const { worker } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.getConsole, async ({ organizationId, parameter, reply }) => {
    const text = await readConsole(sandboxes, organizationId, parseSandboxId(parameter("id")));
    await reply.type("text/plain; charset=utf-8").send(text);
    return answered;
  });

  serve(app, ending, wire.getReadyMachines, async () => {
    const { templates: found, ...counts } = await worker.readyMachines();
    const templates = found.map(({ memoryMib, vcpus, ...rest }) => ({ ...rest, memoryMB: memoryMib, cpuCount: vcpus }));
    const [first] = templates;
    const { image, memoryMB, cpuCount } = first ?? {};
    return { ...counts, image, memoryMB, cpuCount, templates };
  });
}
