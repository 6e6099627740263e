import type { SandboxInfo } from "@opensandbox/sdk";
import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { flag } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List the sandboxes that run or sleep",
  description: "The newest 100. With --json an array; [] when there is none.",
  options: { running: flag("only those that run") },
  examples: [
    { line: "ls", shows: "as a table" },
    { line: "ls --json | jq -r '.[].id'", shows: "only their ids" },
  ],
  async run({ running }, { client, print, signal }) {
    const { sandboxes } = await client();
    const found = await sandboxes.list({ status: running ? "running" : "all" }, signal);
    const head = ["SANDBOX", "ALIAS", "STATUS", "IMAGE", "CPUS", "MEMORY", "AGE"];
    await print(found.length === 0 ? "there is no sandbox" : table(head, found.map(rowOf)), found);
  },
});

function rowOf({ id, alias, status, image, vcpus, memoryMib, createdAt }: SandboxInfo): string[] {
  return [id, alias || "-", status, image, `${vcpus}`, `${memoryMib} MB`, age(createdAt)];
}
