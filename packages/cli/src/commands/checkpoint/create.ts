import { defineCommand } from "../../command.ts";
import { flag, one, text } from "#arguments/inputs.ts";

export const create = defineCommand({
  summary: "Make a checkpoint of a running sandbox and print its id",
  description: "The sandbox stands still for a moment and goes on. The name is by default the time.",
  arguments: { id: one("SANDBOX") },
  options: {
    name: text("NAME", "unique among those of the sandbox"),
    diskOnly: flag("without the memory: what starts from it boots"),
  },
  examples: [
    { line: "checkpoint create sb-1a2b3c4d --name before-upgrade", shows: "something to go back to" },
    { line: "fork $(osb checkpoint create sb-1a2b3c4d)", shows: "two of one" },
  ],
  async run({ id, name = new Date().toISOString(), diskOnly }, { client, print, progress, signal }) {
    using shown = progress();
    shown.report("making the checkpoint");
    const { checkpoints } = await client();
    const made = await checkpoints.create(id, { name, kind: diskOnly ? "disk_only" : "full" }, signal);
    shown.pause();
    await print(made.id, made);
  },
});
