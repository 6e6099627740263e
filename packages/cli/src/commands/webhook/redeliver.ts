import { one } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

export const redeliver = defineCommand({
  summary: "Send a delivery again, under the same id",
  arguments: { id: one("WEBHOOK"), delivery: one("DELIVERY") },
  examples: [
    { line: "webhook redeliver wh_0123456789abcdef msg_0123456789abcdef01234567", shows: "send an event once more" },
  ],
  async run({ id, delivery }, { client, print, signal }) {
    const { webhooks } = await client();
    await webhooks.redeliver(id, delivery, signal);
    await print(`sending delivery ${delivery} again`, { id, delivery, redelivered: true });
  },
});
