import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand } from "../../command.ts";
import { flag, whole } from "#arguments/inputs.ts";
import { removedText } from "#output/removed-text.ts";

const defaultDays = 30;
const dayMs = 24 * 3_600_000;

export const prune = defineCommand({
  summary: "Remove images that nothing uses",
  description: `Removes images of this host that no sandbox, snapshot, template of a user or checkpoint needs and that no sandbox
started from for 30 days, or for --unused-for days: built, pulled and loaded ones, and images without a name. The warm
machines of an image go with it. The next use builds or pulls an image again; one of an archive or a Dockerfile has to be
loaded or built again by you.

This command may run beside a server. Ctrl-C ends it between two removals.`,
  options: {
    dryRun: flag("show what would be removed, and remove nothing"),
    unusedFor: whole("DAYS", `remove what was not used for this many days (default: ${defaultDays})`),
  },
  examples: [
    { line: "image prune --dry-run", shows: "show what would be removed and why" },
    { line: "image prune --unused-for 7", shows: "remove what nothing used for a week" },
  ],
  async run({ dryRun, unusedFor = defaultDays }, { host, print, note, progress, signal }) {
    using shown = progress();
    const { pruneImages, readConfig } = await import("@opensandbox/server");
    const onProgress = (step: string): void => shown.report(step);
    const options = { dryRun, unusedForMs: unusedFor * dayMs, onProgress, signal };
    const report = await pruneImages(readConfig(host.env), options);
    shown.pause();
    await print(removedText(report, { dryRun }), { dryRun, unusedForDays: unusedFor, ...report });
    if (signal.aborted) throw new SandboxError("canceled", "interrupted: the rest is left for the next time");
    for (const { kind, name, error } of report.failed) note(`cannot remove ${kind} ${name}: ${error}`);
    return report.failed.length === 0 ? 0 : 1;
  },
});
