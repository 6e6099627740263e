import { defineCommand } from "../../command.ts";
import { flag, one } from "#arguments/inputs.ts";

export const publish = defineCommand({
  summary: "Allow every organization to fork a checkpoint",
  description: "A fork contains everything in the checkpoint's memory and on its disks, including secrets.",
  arguments: { checkpoint: one("CHECKPOINT") },
  options: { undo: flag("allow only your own organization again") },
  examples: [{ line: "checkpoint publish 5f0d3e5d-0667-43b1-a989-ffccae31a58c", shows: "share a checkpoint" }],
  async run({ checkpoint, undo }, { client, print, signal }) {
    const { checkpoints } = await client();
    await checkpoints.publish(checkpoint, !undo, signal);
    await print(`${undo ? "unpublished" : "published"} ${checkpoint}`, { id: checkpoint, isPublic: !undo });
  },
});
