import { columns } from "#output/table.ts";
import { defineCommand } from "../../command.ts";

export const copyDatabase = defineCommand({
  summary: "Copy this host's SQLite database to PostgreSQL, while no server runs",
  description: `Copies every row of the database in OPENSANDBOX_DATA_DIR to the PostgreSQL database of OPENSANDBOX_DATABASE_URL, which must
exist and have no rows. One transaction writes all rows and compares their numbers: after a failure the target is empty,
and the command can be repeated.

The file stays as it was. Servers use PostgreSQL from the start at which OPENSANDBOX_DATABASE_URL is set; snapshots,
machines and images stay in the data directory.`,
  examples: [{ line: "admin copy-database", shows: "move to the database of OPENSANDBOX_DATABASE_URL" }],
  async run(_input, { host, print, progress, signal }) {
    using shown = progress();
    const { copyDatabase: copy, readConfig } = await import("@opensandbox/server");
    const copied = await copy(readConfig(host.env), (step) => shown.report(step), signal);
    shown.pause();
    const { from, to, tables } = copied;
    const rows = tables.map(({ table, rows: count }) => [table, `${count}`]);
    await print(`copied ${from} to ${to}\n${columns(rows)}`, copied);
  },
});
