import type { SandboxInfo } from "@opensandbox/sdk";
import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { flag, text, whole } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List sandboxes",
  description: "Lists the newest 100 that run, sleep or have failed. With --json, prints an array, which may be empty.",
  options: {
    running: flag("only running sandboxes"),
    past: flag("also sandboxes that have ended"),
    alias: text("NAME", "only sandboxes with this alias"),
    tag: text("KEY=VALUE", "only sandboxes with this tag; KEY alone: with any value of it"),
    limit: whole("N", "at most N, up to 1000 (default: 100)"),
    after: text("SANDBOX", "sandboxes that follow this one in the list"),
  },
  examples: [
    { line: "ls", shows: "list all sandboxes" },
    { line: "ls --tag team=web --limit 20", shows: "list the newest sandboxes with a tag" },
    { line: "ls --json | jq -r '.[].id'", shows: "print only the ids" },
  ],
  async run({ running, past, limit, after, ...asked }, { client, print, signal }) {
    const { sandboxes } = await client();
    const { alias, tag } = asked;
    const selection = {
      ...(alias === undefined ? {} : { alias }),
      ...(tag === undefined ? {} : { tag }),
      ...(limit === undefined ? {} : { limit }),
      ...(after === undefined ? {} : { after }),
    };
    const found = past
      ? await sandboxes.listPast({ ...selection, ...(running ? { status: "running" } : {}) }, signal)
      : await sandboxes.list({ ...selection, status: running ? "running" : "all" }, signal);
    const head = ["SANDBOX", "ALIAS", "STATUS", "IMAGE", "CPUS", "MEMORY", "AGE"];
    await print(found.length === 0 ? "no sandboxes" : table(head, found.map(rowOf)), found);
  },
});

function rowOf({ id, alias, status, image, vcpus, memoryMib, createdAt }: SandboxInfo): string[] {
  return [id, alias || "-", status, image, `${vcpus}`, `${memoryMib} MB`, age(createdAt)];
}
