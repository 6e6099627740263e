import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const rm = defineCommand({
  summary: "Delete an image of your own; sandboxes created from it are unaffected",
  arguments: { name: one("NAME") },
  examples: [{ line: "snapshot rm tools", shows: "delete an image by name or id" }],
  async run({ name }, { client, print, signal }) {
    const { images } = await client();
    await images.delete(name, signal);
    await print(`deleted ${name}`, { name, deleted: true });
  },
});
