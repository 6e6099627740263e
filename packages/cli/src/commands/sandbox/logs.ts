import type { LogLine } from "@opensandbox/sdk";
import { defineCommand } from "../../command.ts";
import { flag, list, one, text, whole } from "#arguments/inputs.ts";
import type { Context } from "../../context.ts";

const sources = ["console", "lifecycle", "refusal", "exec_stdout", "exec_stderr", "agent"] as const;

export const logs = defineCommand({
  summary: "Show the log of a sandbox: by default the console output of its machine",
  description:
    "Shows messages of the guest's kernel and of its start, such as why a machine crashed or ran out of memory. --sources " +
    `selects others: ${sources.join(", ")}; all stands for every one. With -f it goes on with new lines of every source ` +
    "until Ctrl-C. A hibernated sandbox has no console and is not woken. Control characters are shown as text. For one " +
    "command's output as it was written, use 'session logs'.",
  arguments: { id: one("SANDBOX") },
  options: {
    follow: flag("follow new lines", "f"),
    sources: list("only these sources"),
    tail: whole("N", "only the last N lines"),
    grep: text("TEXT", "only lines that contain this text"),
  },
  examples: [
    { line: "logs sb-1a2b3c4d", shows: "show all kept output of the console" },
    { line: "logs sb-1a2b3c4d --tail 20", shows: "show the last 20 lines" },
    { line: "logs -f sb-1a2b3c4d", shows: "follow what happens to a sandbox and what its commands write" },
    { line: "logs sb-1a2b3c4d --sources lifecycle,refusal", shows: "show why it stopped and what its network refused" },
  ],
  check: ({ sources: wanted }) => {
    const unknown = wanted?.find((source) => source !== "all" && !sources.some((known) => known === source));
    return unknown === undefined ? undefined : `--sources: "${unknown}" is unknown: use ${sources.join(", ")} or all`;
  },
  async run({ id, follow, sources: wanted, tail, grep }, context) {
    const client = await context.client();
    if (!follow && wanted === undefined) {
      const lines = (await client.sandboxes.console(id, context.signal)).trimEnd().split(/\r*\n/);
      const found = grep === undefined ? lines : lines.filter((line) => line.includes(grep));
      const shown = tail === undefined ? found : found.slice(Math.max(0, found.length - tail));
      await context.print(shown.join("\n"), { sandbox: id, lines: shown });
      return;
    }
    const selected = sources.filter((source) => wanted?.includes(source));
    const selection = {
      ...(selected.length === 0 ? {} : { sources: selected }),
      ...(tail === undefined ? {} : { tail }),
      ...(grep === undefined ? {} : { text: grep }),
    };
    if (follow) {
      for await (const line of client.logs.follow(id, selection, context.signal)) await printLine(line, context);
      return;
    }
    const found = await client.logs.list(id, selection, context.signal);
    await context.print(found.map(textOf).join("\n"), { sandbox: id, lines: found });
  },
});

async function printLine(line: LogLine, { print }: Context): Promise<void> {
  await print(textOf(line), line);
}

function textOf({ at, source, session, line }: LogLine): string {
  return [...(at === undefined ? [] : [at]), source, ...(session === undefined ? [] : [session.id]), line].join("  ");
}
