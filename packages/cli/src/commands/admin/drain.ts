import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { flag, one } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

const pollMs = 1000;

export const drain = defineCommand({
  summary: "Move every sandbox off a worker",
  description: `Its running sandboxes move to other workers with their memory, its hibernated ones wake elsewhere, and its snapshots leave it
when the object store has them. Calls to a sandbox wait while it moves. The worker gets no new sandboxes until 'osb admin
uncordon'. Returns when nothing is left that the worker alone has; an interrupt ends the wait, and the drain goes on.`,
  arguments: { id: one("WORKER") },
  options: { noWait: flag("return at once") },
  examples: [{ line: "admin drain wk-1a2b3c4d5e6f", shows: "empty a worker before its host is updated" }],
  async run({ id, noWait }, { host, print, progress, signal }) {
    const { readConfig } = await import("@opensandbox/server/config.ts");
    const { drainWorker, listWorkers } = await import("@opensandbox/server/fleet.ts");
    const config = readConfig(host.env);
    await drainWorker(config, id, signal);
    if (noWait) return await print(`${id} is being drained`, { id, draining: true });
    using shown = progress();
    for (;;) {
      const worker = (await listWorkers(config, signal)).find((each) => each.id === id);
      if (worker?.left === undefined) {
        throw new SandboxError("unavailable", `worker ${id} is not being drained any longer`);
      }
      const { sandboxes, snapshots } = worker.left;
      if (sandboxes + snapshots === 0) break;
      shown.report(`${sandboxes} sandboxes and ${snapshots} snapshots are left on ${id}`);
      await sleep(pollMs, undefined, { signal });
    }
    await print(`${id} is drained: stop it, or let it in again with 'osb admin uncordon'`, { id, drained: true });
  },
});
