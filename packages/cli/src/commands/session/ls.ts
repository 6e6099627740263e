import type { ExecSession } from "@opensandbox/sdk";
import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";

export const ls = defineCommand({
  summary: "List the exec sessions of a sandbox",
  description: "Lists sessions that run or ended within the last five minutes.",
  arguments: { id: one("SANDBOX") },
  examples: [{ line: "session ls sb-1a2b3c4d", shows: "list the sessions of a sandbox" }],
  async run({ id }, { client, print, signal }) {
    const { sessions } = await client();
    const found = await sessions.list(id, signal);
    const head = ["SESSION", "STATUS", "CLIENTS", "AGE", "COMMAND"];
    await print(found.length === 0 ? "no sessions" : table(head, found.map(rowOf)), found);
  },
});

function rowOf({ id, running, exitCode, attachedClients, startedAt, command, args }: ExecSession): string[] {
  const status = running ? "running" : `exited with ${exitCode ?? "?"}`;
  return [id, status, `${attachedClients}`, age(startedAt), [command, ...args].join(" ")];
}
