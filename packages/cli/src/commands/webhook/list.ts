import { age } from "#output/age.ts";
import { table } from "#output/table.ts";
import { defineCommand } from "../../command.ts";

export const list = defineCommand({
  summary: "List webhooks",
  examples: [{ line: "webhook list", shows: "list webhooks with their URLs and types" }],
  async run(_input, { client, print, signal }) {
    const { webhooks } = await client();
    const found = await webhooks.list(signal);
    const rows = found.map(({ id, name = "", url, eventTypes, sandboxId = "all", enabled, createdAt }) => [
      ...[id, name, url, eventTypes.join(",") || "all", sandboxId, enabled ? "yes" : "no", age(createdAt)],
    ]);
    const head = ["WEBHOOK", "NAME", "URL", "TYPES", "SANDBOX", "ENABLED", "AGE"];
    await print(rows.length === 0 ? "no webhooks" : table(head, rows), found);
  },
});
