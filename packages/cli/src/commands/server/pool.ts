import { defineCommand } from "../../command.ts";
import { table } from "#output/table.ts";

export const pool = defineCommand({
  summary: "Show how many machines are ready for new sandboxes",
  description:
    "The server keeps machines of every image that creates have used lately restored, so that a create takes one at " +
    "once. OPENSANDBOX_READY_MACHINES sets their number for each image. Creates beyond that restore a machine of their own.",
  examples: [{ line: "pool", shows: "show the server's pool" }],
  async run(_input, { client, print, signal }) {
    const { sandboxes } = await client();
    const state = await sandboxes.pool(signal);
    const rows = state.templates.map(({ ready, wanted, image, vcpus, memoryMib }) => [
      ...[String(ready), String(wanted), image, `${vcpus} vCPU, ${memoryMib} MiB`],
    ]);
    const none = [String(state.ready), String(state.wanted), "-", "-"];
    await print(table(["READY", "WANTED", "IMAGE", "SHAPE"], rows.length === 0 ? [none] : rows), state);
  },
});
