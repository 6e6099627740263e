import { one } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

export const rm = defineCommand({
  summary: "Delete a webhook with its deliveries",
  arguments: { id: one("WEBHOOK") },
  examples: [{ line: "webhook rm wh_0123456789abcdef", shows: "send no more events to its URL" }],
  async run({ id }, { client, print, signal }) {
    const { webhooks } = await client();
    await webhooks.delete(id, signal);
    await print(`deleted webhook ${id}`, { id, deleted: true });
  },
});
