import { defineCommand } from "../../command.ts";
import { flag, one } from "#arguments/inputs.ts";

export const publish = defineCommand({
  summary: "Let every organization fork a checkpoint",
  description: "With all that is in its memory and on its disks.",
  arguments: { checkpoint: one("CHECKPOINT") },
  options: { undo: flag("let no other organization fork it any more") },
  examples: [{ line: "checkpoint publish 5f0d3e5d-0667-43b1-a989-ffccae31a58c", shows: "share it" }],
  async run({ checkpoint, undo }, { client, print, signal }) {
    const { checkpoints } = await client();
    await checkpoints.publish(checkpoint, !undo, signal);
    await print(`${undo ? "unpublished" : "published"} ${checkpoint}`, { id: checkpoint, isPublic: !undo });
  },
});
