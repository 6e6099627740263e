import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const rm = defineCommand({
  summary: "Delete a checkpoint; sandboxes forked from it are unaffected",
  arguments: { id: one("SANDBOX"), checkpoint: one("CHECKPOINT") },
  examples: [
    {
      line: "checkpoint rm sb-1a2b3c4d 5f0d3e5d-0667-43b1-a989-ffccae31a58c",
      shows: "delete a checkpoint and free its disk space",
    },
  ],
  async run({ id, checkpoint }, { client, print, signal }) {
    const { checkpoints } = await client();
    await checkpoints.delete(id, checkpoint, signal);
    await print(`deleted checkpoint ${checkpoint}`, { id: checkpoint, deleted: true });
  },
});
