import { defineCommand } from "../../command.ts";
import { table } from "#output/table.ts";

export const pool = defineCommand({
  summary: "Show how many machines wait to become a sandbox",
  description:
    "They are restored from the template that was asked for last and wait, so that a create takes one at once. " +
    "OPENSANDBOX_READY_MACHINES says how many a server keeps; a burst of creates beyond them restores its own.",
  examples: [{ line: "pool", shows: "those of the server" }],
  async run(_input, { client, print, signal }) {
    const { sandboxes } = await client();
    const state = await sandboxes.pool(signal);
    const { wanted, ready, image = "-", memoryMib, vcpus } = state;
    const shape = memoryMib === undefined ? "-" : `${vcpus ?? 1} vCPU, ${memoryMib} MiB`;
    await print(table(["READY", "WANTED", "IMAGE", "SHAPE"], [[String(ready), String(wanted), image, shape]]), state);
  },
});
