import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { megabytes } from "#output/megabytes.ts";

export const hibernate = defineCommand({
  summary: "Save a sandbox to disk with its memory and processes",
  description: "A hibernated sandbox occupies only disk space. Any use wakes it, and its processes continue.",
  arguments: { id: one("SANDBOX") },
  examples: [{ line: "hibernate sb-1a2b3c4d", shows: "free the sandbox's memory until its next use" }],
  async run({ id }, { client, print, progress, signal }) {
    using shown = progress();
    shown.report("hibernating the sandbox");
    const { sandboxes } = await client();
    const { sizeBytes } = await sandboxes.hibernate(id, signal);
    shown.pause();
    await print(`hibernated ${id}: ${megabytes(sizeBytes)} on disk`, { id, sizeBytes });
  },
});
