import { flag, list, one, text } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import { webhookText } from "./webhook-text.ts";

export const update = defineCommand({
  summary: "Change a webhook",
  arguments: { id: one("WEBHOOK") },
  options: {
    url: text("URL", "send events to another URL"),
    name: text("NAME", "a name for people; empty: none"),
    types: list("only these types; empty: all"),
    enable: flag("deliver events again, from now on"),
    disable: flag("deliver no events"),
    rotateSecret: flag("make a new signing secret; the old one also signs for 24 hours"),
  },
  examples: [
    { line: "webhook update wh_0123456789abcdef --disable", shows: "pause a webhook" },
    { line: "webhook update wh_0123456789abcdef --rotate-secret", shows: "print a new signing secret" },
  ],
  check({ url, name, types, enable, disable, rotateSecret }) {
    if (enable && disable) return "give --enable or --disable, not both";
    const nothing = [url, name, types].every((value) => value === undefined) && !enable && !disable && !rotateSecret;
    return nothing
      ? "nothing to change: give --url, --name, --types, --enable, --disable or --rotate-secret"
      : undefined;
  },
  async run({ id, url, name, types, enable, disable, rotateSecret }, { client, print, signal }) {
    const { webhooks } = await client();
    const changes = {
      ...(url === undefined ? {} : { url }),
      ...(name === undefined ? {} : { name: name === "" ? null : name }),
      ...(types === undefined ? {} : { eventTypes: types }),
      ...(enable || disable ? { enabled: enable } : {}),
      ...(rotateSecret ? { rotateSecret } : {}),
    };
    const changed = await webhooks.update(id, changes, signal);
    const { secret } = changed;
    await print(secret === undefined ? webhookText(changed) : `${webhookText(changed)}\nsecret: ${secret}`, changed);
  },
});
