import { age } from "#output/age.ts";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";

export const list = defineCommand({
  summary: "List the named ports of a sandbox",
  arguments: { id: one("SANDBOX") },
  examples: [{ line: "preview list sb-1a2b3c4d", shows: "list ports with host names and age" }],
  async run({ id }, { client, print, signal }) {
    const { previews } = await client();
    const found = await previews.list(id, signal);
    const rows = found.map(({ port, hostname, customHostname = "", domainVerification, createdAt }) => {
      const isPending = domainVerification?.status === "pending";
      return [String(port), hostname, `${customHostname}${isPending ? " (not verified)" : ""}`, age(createdAt)];
    });
    const head = ["PORT", "HOST NAME", "DOMAIN", "AGE"];
    await print(rows.length === 0 ? "no named ports" : table(head, rows), found);
  },
});
