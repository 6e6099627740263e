import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List the images of your own",
  description: "Images without a name were built for a single create.",
  examples: [{ line: "snapshot ls", shows: "list your images" }],
  async run(_input, { client, print, signal }) {
    const { images } = await client();
    const found = await images.list(signal);
    const rows = found.map(({ name, id, status, error, createdAt }) => [
      ...[name === "" ? "-" : name, id, error === undefined ? status : `${status}: ${error}`],
      age(createdAt),
    ]);
    await print(rows.length === 0 ? "no images" : table(["NAME", "ID", "STATUS", "AGE"], rows), found);
  },
});
