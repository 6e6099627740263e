import type { Sandbox } from "@opensandbox/sdk";
import { age } from "../age.ts";
import { defineCommand } from "../command.ts";
import { table } from "../table.ts";

export const ls = defineCommand({
  summary: "List the sandboxes that run",
  description: "The newest 100. With --json an array; [] when there is none.",
  examples: [
    { line: "ls", shows: "as a table" },
    { line: "ls --json | jq -r '.[].id'", shows: "only their ids" },
  ],
  async run(_input, { client, print, signal }) {
    const { sandboxes } = await client();
    const found = await sandboxes.list(signal);
    const head = ["SANDBOX", "ALIAS", "STATUS", "IMAGE", "CPUS", "MEMORY", "AGE"];
    await print(found.length === 0 ? "no sandbox runs" : table(head, found.map(rowOf)), found);
  },
});

function rowOf({ id, alias, status, image, vcpus, memoryMib, createdAt }: Sandbox): string[] {
  return [id, alias || "-", status, image, `${vcpus}`, `${memoryMib} MB`, age(createdAt)];
}
