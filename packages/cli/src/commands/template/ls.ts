import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List templates",
  examples: [{ line: "template ls", shows: "list your templates with the status of their newest build" }],
  async run(_input, { client, print, signal }) {
    const { templates } = await client();
    const found = await templates.list(signal);
    const rows = found.map(({ name, id, public: isPublic, builds, createdAt }) => [
      ...[name, id, builds[0]?.status ?? "-"],
      builds.flatMap(({ status, tags }) => (status === "ready" ? tags : [])).join(",") || "-",
      isPublic ? "yes" : "no",
      age(createdAt),
    ]);
    const head = ["NAME", "ID", "NEWEST BUILD", "TAGS", "PUBLIC", "AGE"];
    await print(rows.length === 0 ? "no templates" : table(head, rows), found);
  },
});
