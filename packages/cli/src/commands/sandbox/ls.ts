import type { SandboxInfo } from "@opensandbox/sdk";
import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { flag } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List sandboxes",
  description: "Lists the newest 100 that run, sleep or have failed. With --json, prints an array, which may be empty.",
  options: { running: flag("only running sandboxes") },
  examples: [
    { line: "ls", shows: "list all sandboxes" },
    { line: "ls --json | jq -r '.[].id'", shows: "print only the ids" },
  ],
  async run({ running }, { client, print, signal }) {
    const { sandboxes } = await client();
    const found = await sandboxes.list({ status: running ? "running" : "all" }, signal);
    const head = ["SANDBOX", "ALIAS", "STATUS", "IMAGE", "CPUS", "MEMORY", "AGE"];
    await print(found.length === 0 ? "no sandboxes" : table(head, found.map(rowOf)), found);
  },
});

function rowOf({ id, alias, status, image, vcpus, memoryMib, createdAt }: SandboxInfo): string[] {
  return [id, alias || "-", status, image, `${vcpus}`, `${memoryMib} MB`, age(createdAt)];
}
