import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const rm = defineCommand({
  summary: "Delete an image that was built by steps; what was created from it goes on",
  arguments: { name: one("NAME") },
  examples: [{ line: "snapshot rm tools", shows: "by its name; an id does as well" }],
  async run({ name }, { client, print, signal }) {
    const { images } = await client();
    await images.delete(name, signal);
    await print(`deleted ${name}`, { name, deleted: true });
  },
});
