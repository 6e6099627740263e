import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const rm = defineCommand({
  summary: "Delete a template with all its builds; sandboxes created from it are unaffected",
  arguments: { name: one("NAME") },
  examples: [{ line: "template rm web", shows: "delete a template by name or id" }],
  async run({ name }, { client, print, signal }) {
    const { templates } = await client();
    await templates.delete(name, signal);
    await print(`deleted template ${name}`, { name, deleted: true });
  },
});
