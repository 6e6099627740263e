import { defineCommand } from "../../command.ts";
import { flag, one } from "#arguments/inputs.ts";

export const reboot = defineCommand({
  summary: "Reboot a sandbox",
  description: "Files, id and environment stay. Processes end.",
  arguments: { id: one("SANDBOX") },
  options: { power: flag("power-cycle without asking the guest, for a sandbox that does not respond or has crashed") },
  examples: [
    { line: "reboot sb-1a2b3c4d", shows: "restart the guest" },
    { line: "reboot --power sb-1a2b3c4d", shows: "restart a guest that does not respond" },
  ],
  async run({ id, power }, { client, print, progress, signal }) {
    using shown = progress();
    shown.report("rebooting the sandbox");
    const { sandboxes } = await client();
    await (power ? sandboxes.powerCycle(id, signal) : sandboxes.reboot(id, signal));
    shown.pause();
    await print(`rebooted ${id}`, { id });
  },
});
