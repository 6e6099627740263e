import { flag, one } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

export const removeWorker = defineCommand({
  summary: "Remove a worker that does not answer from the fleet",
  description: `A worker that was drained and stopped leaves nothing behind. With --lost you declare that the host of the worker is off:
its hibernated sandboxes wake elsewhere, and those that ran continue from their last stored checkpoint at their next use,
which says so. Never use --lost while the host may still run: its machines would go on beside the new ones.`,
  arguments: { id: one("WORKER") },
  options: { lost: flag("its host is off: continue its sandboxes from what is stored of them") },
  examples: [
    { line: "admin remove-worker wk-1a2b3c4d5e6f", shows: "remove a worker that was drained and stopped" },
    { line: "admin remove-worker --lost wk-1a2b3c4d5e6f", shows: "continue without a host that is gone" },
  ],
  async run({ id, lost }, { host, print, signal }) {
    const { readConfig } = await import("@opensandbox/server/config.ts");
    const fleet = await import("@opensandbox/server/fleet.ts");
    const removed = await fleet.removeWorker(readConfig(host.env), { id, lost }, signal);
    const fate = `${removed.recovered} of its sandboxes continue from a stored state, ${removed.lost} are lost`;
    await print(`${id} is removed: ${fate}`, { id, ...removed });
  },
});
