import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const restore = defineCommand({
  summary: "Restore a sandbox to one of its checkpoints, in place",
  description: "The sandbox's current state is lost. Its id and environment stay.",
  arguments: { id: one("SANDBOX"), checkpoint: one("CHECKPOINT") },
  examples: [
    {
      line: "restore sb-1a2b3c4d 5f0d3e5d-0667-43b1-a989-ffccae31a58c",
      shows: "return to the checkpoint's files and processes",
    },
  ],
  async run({ id, checkpoint }, { client, print, progress, signal }) {
    using shown = progress();
    shown.report("restoring the sandbox");
    const { checkpoints, sandboxes } = await client();
    await checkpoints.restore(id, checkpoint, signal);
    // The restore has only started. Another call to the sandbox waits for its end.
    const restored = await sandboxes.get(id, signal);
    shown.pause();
    await print(`restored ${id}`, restored);
  },
});
