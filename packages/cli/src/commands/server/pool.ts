import { defineCommand } from "../../command.ts";
import { table } from "#output/table.ts";

export const pool = defineCommand({
  summary: "Show how many machines are ready for new sandboxes",
  description:
    "The server keeps machines of the latest image and size restored, so that a create takes one at once. " +
    "OPENSANDBOX_READY_MACHINES sets their number. Creates beyond that number restore a machine of their own.",
  examples: [{ line: "pool", shows: "show the server's pool" }],
  async run(_input, { client, print, signal }) {
    const { sandboxes } = await client();
    const state = await sandboxes.pool(signal);
    const { wanted, ready, image = "-", memoryMib, vcpus } = state;
    const shape = memoryMib === undefined ? "-" : `${vcpus ?? 1} vCPU, ${memoryMib} MiB`;
    await print(table(["READY", "WANTED", "IMAGE", "SHAPE"], [[String(ready), String(wanted), image, shape]]), state);
  },
});
