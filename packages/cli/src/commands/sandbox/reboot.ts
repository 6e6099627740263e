import { defineCommand } from "../../command.ts";
import { flag, one } from "#arguments/inputs.ts";

export const reboot = defineCommand({
  summary: "Start a sandbox's kernel again",
  description: "Files, id and environment stay; processes end.",
  arguments: { id: one("SANDBOX") },
  options: { power: flag("do not ask the guest: also for one that does not answer or whose machine has ended") },
  examples: [
    { line: "reboot sb-1a2b3c4d", shows: "when everything is on its disks" },
    { line: "reboot --power sb-1a2b3c4d", shows: "as by the switch" },
  ],
  async run({ id, power }, { client, print, progress, signal }) {
    using shown = progress();
    shown.report("booting the sandbox");
    const { sandboxes } = await client();
    await (power ? sandboxes.powerCycle(id, signal) : sandboxes.reboot(id, signal));
    shown.pause();
    await print(`rebooted ${id}`, { id });
  },
});
