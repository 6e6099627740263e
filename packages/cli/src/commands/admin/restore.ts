import type { Restored } from "@opensandbox/server";
import { flag, one } from "#arguments/inputs.ts";
import { columns } from "#output/table.ts";
import { defineCommand } from "../../command.ts";
import { contentLines } from "./content-lines.ts";

export const restore = defineCommand({
  summary: "Restore a backup into the data directory, while no server runs",
  description: `BACKUP is a directory that 'admin backup' made, or the copy of a database: one that 'admin backup
--database-only' made, or one that a server made beside its database (opensandbox.sqlite.copy-*).

The whole backup is verified before anything is replaced. A data directory with content needs --force, which moves the
content aside into a directory 'replaced-TIME' there; a database alone replaces only the database. A backup of an earlier
version is migrated by the next start of the server. Sandboxes that were running when the backup was made are in state
error afterwards. After the restore of a database alone, snapshots and machines stay where they are, and the next server
removes the machines of sandboxes that the copy does not know.

A database in PostgreSQL (OPENSANDBOX_DATABASE_URL) is not handled here: use pg_dump and pg_restore.`,
  arguments: { backup: one("BACKUP") },
  options: {
    force: flag("move the content of the data directory aside"),
    copy: flag("copy snapshots instead of linking them where that is possible"),
    dryRun: flag("verify the backup and replace nothing"),
  },
  examples: [
    { line: "admin restore /backups/monday", shows: "restore into an empty data directory" },
    { line: "admin restore --dry-run /backups/monday", shows: "verify a backup" },
    {
      line: "admin restore --force /var/lib/opensandbox/opensandbox.sqlite.copy-daily",
      shows: "return to a copy of the database that the server made",
    },
  ],
  async run({ backup, force, copy, dryRun }, { host, print, progress, signal, note }) {
    using shown = progress();
    const { restoreBackup, readConfig } = await import("@opensandbox/server");
    const onProgress = (step: string): void => shown.report(step);
    const config = readConfig(host.env);
    const transfer = copy ? "copy" : "link";
    const restored = await restoreBackup(config, { source: backup, force, transfer, dryRun, onProgress }, signal);
    shown.pause();
    const done = dryRun ? `${backup} is intact` : `restored ${backup} to ${config.dataDirectory}`;
    await print(`${done}\n${linesOf(restored)}`, restored);
    if (restored.missing.length === 0) return 0;
    note(`the backup has no snapshots for ${restored.missing.length} hibernated sandboxes, checkpoints or images`);
    return 1;
  },
});

function linesOf({ contents, snapshots, replaced }: Restored): string {
  const { onlyInMachines } = contents;
  const ids = onlyInMachines.map(({ id }) => id).join(", ");
  return columns([
    ...contentLines(contents),
    ...(snapshots === undefined ? [] : [["snapshots", `${snapshots}`]]),
    ...(onlyInMachines.length === 0 || snapshots === undefined ? [] : [["without their disks", ids]]),
    ...(replaced === undefined ? [] : [["earlier content", replaced]]),
  ]);
}
