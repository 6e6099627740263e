import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand } from "../../command.ts";
import { flag } from "#arguments/inputs.ts";
import { removedText } from "#output/removed-text.ts";

export const gc = defineCommand({
  summary: "Remove what nothing on this host uses any more",
  description: `Removes templates, workspaces, earlier builds of images, images without a name, rows of sandboxes that were deleted and
disks that were moved aside: those that were not used for OPENSANDBOX_RETENTION_DAYS, and the least recently used of the
rest until it fits into OPENSANDBOX_CACHE_MAX_BYTES. Current builds stay, and so does whatever a sandbox, a checkpoint
or a named image uses. Everything that goes, except rows and disks, is made again when it is needed.

A running server does the same every ten minutes and after each new template; this command may run beside it. Ctrl-C ends
it between two removals.`,
  options: {
    dryRun: flag("show what would be removed, and remove nothing"),
  },
  examples: [
    { line: "gc --dry-run", shows: "show what would be removed and why" },
    { line: "gc --json | jq .bytes", shows: "remove it, and print the number of bytes that became free" },
  ],
  async run({ dryRun }, { host, print, note, progress, signal }) {
    using shown = progress();
    const { collectGarbage, readConfig } = await import("@opensandbox/server");
    const onProgress = (step: string): void => shown.report(step);
    const report = await collectGarbage(readConfig(host.env), { dryRun, onProgress, signal });
    shown.pause();
    await print(removedText(report, { dryRun }), { dryRun, ...report });
    if (signal.aborted) throw new SandboxError("canceled", "interrupted: the rest is left for the next time");
    for (const { kind, name, error } of report.failed) note(`cannot remove ${kind} ${name}: ${error}`);
    return report.failed.length === 0 ? 0 : 1;
  },
});
