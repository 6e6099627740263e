import { defineCommand } from "../../command.ts";
import { flag, one, text } from "#arguments/inputs.ts";

export const create = defineCommand({
  summary: "Create a checkpoint of a running sandbox and print its id",
  description: "The sandbox pauses for a moment. The default name is the current time.",
  arguments: { id: one("SANDBOX") },
  options: {
    name: text("NAME", "a name, unique within the sandbox"),
    diskOnly: flag("save only the disks: a restore or a fork boots"),
  },
  examples: [
    { line: "checkpoint create sb-1a2b3c4d --name before-upgrade", shows: "save a state to restore later" },
    { line: "osb fork $(osb checkpoint create sb-1a2b3c4d)", shows: "copy a running sandbox" },
  ],
  async run({ id, name = new Date().toISOString(), diskOnly }, { client, print, progress, signal }) {
    using shown = progress();
    shown.report("creating the checkpoint");
    const { checkpoints } = await client();
    const made = await checkpoints.create(id, { name, kind: diskOnly ? "disk_only" : "full" }, signal);
    shown.pause();
    await print(made.id, made);
  },
});
