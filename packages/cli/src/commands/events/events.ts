import type { SandboxEvent } from "@opensandbox/sdk";
import { flag, list, text, whole } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";

export const events = defineCommand({
  summary: "Show what happened to sandboxes",
  description:
    "Shows the newest events, oldest first, with time, sandbox, type and facts. With -f it follows new events until " +
    "Ctrl-C, and reconnects when the connection breaks. With --json each event is one line.",
  options: {
    follow: flag("follow new events", "f"),
    sandbox: text("SANDBOX", "only events of this sandbox"),
    types: list("only these types, such as sandbox.stopped or sandbox.checkpoint.*"),
    tail: whole("N", "begin with the newest N events; default 20, with -f 0"),
  },
  examples: [
    { line: "events", shows: "show the newest events" },
    { line: "events -f --types sandbox.stopped", shows: "watch for sandboxes that stop" },
    { line: "events -f --json --sandbox sb-1a2b3c4d", shows: "follow one sandbox as JSON" },
  ],
  check: ({ tail }) => (tail !== undefined && tail > 1000 ? "--tail takes at most 1000" : undefined),
  async run({ follow, sandbox, types, tail = follow ? 0 : 20 }, context) {
    const client = await context.client();
    const selection = {
      ...(sandbox === undefined ? {} : { sandboxId: sandbox }),
      ...(types === undefined ? {} : { types }),
    };
    const page = await client.events.list({ ...selection, limit: Math.max(tail, 1) }, context.signal);
    for (const event of page.events.slice(page.events.length - tail)) await printEvent(event, context);
    if (!follow) return;
    const after = { ...selection, after: page.cursor };
    for await (const event of client.events.follow(after, context.signal)) await printEvent(event, context);
  },
});

async function printEvent(event: SandboxEvent, { print }: Context): Promise<void> {
  const { at, sandboxId, type, data } = event;
  const facts = Object.entries(data).map(([name, value]) => `${name}=${String(value)}`);
  await print([at, sandboxId, type.replace(/^sandbox\./, ""), ...facts].join("  "), event);
}
