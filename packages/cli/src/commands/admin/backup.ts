import type { BackedUp } from "@opensandbox/server";
import { choice, flag, one } from "#arguments/inputs.ts";
import { megabytes } from "#output/megabytes.ts";
import { columns } from "#output/table.ts";
import { defineCommand } from "../../command.ts";
import { contentLines } from "./content-lines.ts";

export const backup = defineCommand({
  summary: "Back up the data directory, also while a server runs",
  description: `Makes the directory TARGET with the database, the first API key, and the snapshots of all hibernated sandboxes,
checkpoints and images that users built. Each of them can be restored on this host. The directory contains secrets; only
its owner can read it.

Not included: the disks and memory of running sandboxes. Hibernate them, or make checkpoints, before the backup. Built
images and templates are made again when they are missing.

Snapshots are hard links where TARGET is on the same file system: they take no space and no time, and they protect
against deletion, not against a failing disk. On another file system they are copies. Copy the directory with a program
that keeps hard links and holes, such as 'rsync -aHS' or 'tar --sparse'.

A database in PostgreSQL (OPENSANDBOX_DATABASE_URL) is not handled here: use pg_dump and pg_restore.`,
  arguments: { target: one("TARGET") },
  options: {
    databaseOnly: flag("copy only the database, to the file TARGET"),
    snapshots: choice("how snapshots get into the backup (default: link)", ["link", "copy", "none"]),
    images: flag("include the built images, for a host that cannot build them again"),
  },
  examples: [
    { line: "admin backup /backups/monday", shows: "back up everything that can be restored" },
    { line: "admin backup --snapshots copy /mnt/disk2/monday", shows: "survive the loss of the first disk" },
    { line: "admin backup --database-only /backups/monday.sqlite", shows: "copy only the database" },
  ],
  check: ({ databaseOnly, snapshots, images }) =>
    databaseOnly && (snapshots !== undefined || images) ? "--database-only has no snapshots and no images" : undefined,
  async run({ target, databaseOnly, snapshots = "link", images }, { host, print, progress, signal, note }) {
    using shown = progress();
    const { backUp, readConfig } = await import("@opensandbox/server");
    const onProgress = (step: string): void => shown.report(step);
    const config = readConfig(host.env);
    const made = await backUp(config, { target, databaseOnly, snapshots, images, onProgress }, signal);
    shown.pause();
    await print(`backed up ${config.dataDirectory} to ${made.target}\n${linesOf(made)}`, made);
    if (made.missing.length === 0) return 0;
    note(`${made.missing.length} snapshots are missing in ${config.dataDirectory}: ${made.missing.join(", ")}`);
    return 1;
  },
});

function linesOf({ contents, snapshots, copiedBytes }: BackedUp): string {
  const copied = copiedBytes === 0 ? "" : `, ${megabytes(copiedBytes)} copied`;
  return columns([
    ...contentLines(contents),
    ["snapshots", `${snapshots}${copied}`],
    ...(contents.onlyInMachines.length === 0
      ? []
      : [["not included", contents.onlyInMachines.map(({ id, state }) => `${id} (${state})`).join(", ")]]),
  ]);
}
