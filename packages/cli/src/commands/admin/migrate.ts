import { flag } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";

export const migrate = defineCommand({
  summary: "Bring the database to this version, before a server of this version starts",
  description: `A server does the same when it starts. Run it first where several servers share a PostgreSQL database
(OPENSANDBOX_DATABASE_URL), so that an operator sees it succeed. The migrations are one transaction: a failure changes
nothing.

An SQLite database is first copied beside itself. First dump a PostgreSQL database with pg_dump: an earlier version
refuses the migrated database.`,
  options: { dryRun: flag("list the migrations, and run none") },
  examples: [
    { line: "admin migrate --dry-run", shows: "list the missing migrations" },
    { line: "admin migrate", shows: "migrate it" },
  ],
  async run({ dryRun }, { host, print, progress }) {
    using shown = progress();
    shown.report("opening the database");
    const { migrateDatabase, readConfig } = await import("@opensandbox/server");
    const migrated = await migrateDatabase(readConfig(host.env), dryRun);
    shown.pause();
    const { database, migrations, at } = migrated;
    const list = migrations.join(", ");
    const text =
      migrations.length === 0
        ? `${database} is up to date (${at})`
        : dryRun
          ? `${database} lacks ${list}`
          : `migrated ${database}: ${list}`;
    await print(text, migrated);
  },
});
