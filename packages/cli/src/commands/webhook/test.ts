import { one } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

export const test = defineCommand({
  summary: "Send a sample event to a webhook, and print the id of its delivery",
  arguments: { id: one("WEBHOOK") },
  examples: [
    { line: "webhook test wh_0123456789abcdef", shows: "try the receiver; 'webhook deliveries' shows the result" },
  ],
  async run({ id }, { client, print, signal }) {
    const { webhooks } = await client();
    const sent = await webhooks.test(id, signal);
    await print(sent.deliveryId, sent);
  },
});
