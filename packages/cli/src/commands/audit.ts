import { text, whole } from "#arguments/inputs.ts";
import { age } from "#output/age.ts";
import { table } from "#output/table.ts";
import { defineCommand } from "../command.ts";

export const audit = defineCommand({
  summary: "List the calls that changed something in the organization",
  description: `Newest first: who called what, from where, and the status of the answer. Needs a key with the scope admin:read. Actions
of 'admin' on the host are listed too.`,
  options: {
    limit: whole("N", "at most N entries, up to 1000 (default: 50)"),
    before: text("CURSOR", "entries older than this cursor, which the last line of a page names"),
  },
  examples: [
    { line: "audit", shows: "list the newest entries" },
    { line: "audit --json | jq -r '.entries[] | select(.status >= 400) | .path'", shows: "print refused calls" },
  ],
  async run({ limit = 50, before }, { client, print, note, signal }) {
    const page = await (await client()).audit.list({ limit, cursor: before }, signal);
    const rows = page.entries.map(({ at, actor, action, path, resource, address, status }) => [
      ...[age(at), actor, action, path === "" ? "-" : path, resource ?? "-", address === "" ? "-" : address],
      `${status}`,
    ]);
    const head = ["AGE", "WHO", "ACTION", "PATH", "MADE", "FROM", "STATUS"];
    await print(rows.length === 0 ? "no entries" : table(head, rows), page);
    if (page.nextCursor !== undefined) note(`older entries: --before ${page.nextCursor}`);
  },
});
