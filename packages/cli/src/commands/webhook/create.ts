import { list, one, text } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

export const create = defineCommand({
  summary: "Send events to a URL, and print the webhook's id and signing secret",
  description:
    "Each event is a POST, signed as https://www.standardwebhooks.com describes. An event that is not accepted is sent " +
    "again for 24 hours. The URL's host must have a public address, unless the server allows private ones.",
  arguments: { url: one("URL") },
  options: {
    name: text("NAME", "a name for people"),
    types: list("only these types, such as sandbox.stopped or sandbox.checkpoint.*"),
    sandbox: text("SANDBOX", "only events of this sandbox"),
  },
  examples: [
    { line: "webhook create https://example.com/events", shows: "send all events" },
    {
      line: "webhook create https://example.com/ends --types sandbox.stopped",
      shows: "send an event when a sandbox stops",
    },
  ],
  async run({ url, name, types, sandbox }, { client, print, signal }) {
    const { webhooks } = await client();
    const request = {
      url,
      ...(name === undefined ? {} : { name }),
      ...(types === undefined ? {} : { eventTypes: types }),
      ...(sandbox === undefined ? {} : { sandboxId: sandbox }),
    };
    const made = await webhooks.create(request, signal);
    await print(`${made.id}\n${made.secret}`, made);
  },
});
