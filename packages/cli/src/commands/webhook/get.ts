import { flag, one } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import { webhookText } from "./webhook-text.ts";

export const get = defineCommand({
  summary: "Show a webhook",
  arguments: { id: one("WEBHOOK") },
  options: { secret: flag("show its signing secret too") },
  examples: [
    { line: "webhook get wh_0123456789abcdef", shows: "show URL, types and state" },
    { line: "webhook get wh_0123456789abcdef --secret", shows: "show the signing secret too" },
  ],
  async run({ id, secret: withSecret }, { client, print, signal }) {
    const { webhooks } = await client();
    const found = await webhooks.get(id, signal);
    const secret = withSecret ? await webhooks.secret(id, signal) : undefined;
    if (secret === undefined) await print(webhookText(found), found);
    else await print(`${webhookText(found)}\nsecret: ${secret}`, { ...found, secret });
  },
});
