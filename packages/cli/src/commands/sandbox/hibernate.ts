import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { megabytes } from "#output/megabytes.ts";

export const hibernate = defineCommand({
  summary: "Put a sandbox to sleep with its memory and its processes",
  description: "It takes nothing but disk space then. Any use of it wakes it where it was.",
  arguments: { id: one("SANDBOX") },
  examples: [{ line: "hibernate sb-1a2b3c4d", shows: "free its memory until it is used again" }],
  async run({ id }, { client, print, progress, signal }) {
    using shown = progress();
    shown.report("putting the sandbox to sleep");
    const { sandboxes } = await client();
    const { sizeBytes } = await sandboxes.hibernate(id, signal);
    shown.pause();
    await print(`hibernated ${id}: ${megabytes(sizeBytes)} on disk`, { id, sizeBytes });
  },
});
