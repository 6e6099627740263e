import { age } from "#output/age.ts";
import { one } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";
import { defineCommand } from "../../command.ts";

export const deliveries = defineCommand({
  summary: "List the newest deliveries of a webhook",
  arguments: { id: one("WEBHOOK") },
  examples: [
    { line: "webhook deliveries wh_0123456789abcdef", shows: "show which events arrived, and why others did not" },
  ],
  async run({ id }, { client, print, signal }) {
    const { webhooks } = await client();
    const found = await webhooks.deliveries(id, signal);
    const rows = found.map((delivery) => [
      ...[delivery.id, delivery.eventType, delivery.status, String(delivery.attempts), age(delivery.createdAt)],
      delivery.error ?? (delivery.responseStatus === undefined ? "" : `status ${delivery.responseStatus}`),
    ]);
    const head = ["DELIVERY", "TYPE", "STATUS", "ATTEMPTS", "AGE", "LAST ANSWER"];
    await print(rows.length === 0 ? "no deliveries" : table(head, rows), found);
  },
});
