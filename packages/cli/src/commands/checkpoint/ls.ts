import type { Checkpoint } from "@opensandbox/sdk";
import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { optional } from "#arguments/inputs.ts";
import { megabytes } from "#output/megabytes.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List checkpoints",
  description: "Without SANDBOX, lists all checkpoints, including those of deleted sandboxes.",
  arguments: { id: optional("SANDBOX") },
  examples: [
    { line: "checkpoint ls sb-1a2b3c4d", shows: "list the checkpoints of a sandbox" },
    { line: "checkpoint ls --json | jq -r '.[].id'", shows: "print the ids of all checkpoints" },
  ],
  async run({ id }, { client, print, signal }) {
    const { checkpoints } = await client();
    const found = await checkpoints.list(id, signal);
    const head = ["CHECKPOINT", "NAME", "SANDBOX", "KIND", "STATUS", "ON DISK", "AGE"];
    await print(found.length === 0 ? "no checkpoints" : table(head, found.map(rowOf)), found);
  },
});

function rowOf({ id, name, sandboxId, kind, status, sizeBytes, createdAt, error }: Checkpoint): string[] {
  const shown = error === undefined ? status : `${status}: ${error}`;
  return [id, name, sandboxId, kind, shown, megabytes(sizeBytes), age(createdAt)];
}
