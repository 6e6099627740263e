import { flag } from "#arguments/inputs.ts";
import { columns } from "#output/table.ts";
import { defineCommand } from "../../command.ts";
import { launcherPath } from "../../installation.ts";
import { requireRoot } from "./require-root.ts";

export const remove = defineCommand({
  summary: "Undo the changes of 'host setup'",
  description: `Hibernates the sandboxes, stops the service, and undoes each recorded change, the last one first. Keeps the data in
/var/lib/opensandbox and on the data disk, and files that were edited after the set-up.`,
  options: { dryRun: flag("list the changes to undo and change nothing") },
  examples: [
    { line: "host remove --dry-run", shows: "list what would be undone" },
    { line: "host remove", shows: "undo the set-up and keep the data" },
  ],
  async run({ dryRun }, { host, print, note, signal }) {
    const { keptData, plannedRemoval, removeFromHost } = await import("./set-up-host.ts");
    const { System } = await import("./system.ts");
    const common = { system: new System(), launcher: launcherPath };
    if (!dryRun) requireRoot(host.program, "host remove");
    if (dryRun) {
      const steps = await plannedRemoval(common);
      await print(steps === undefined ? nothing : `would undo: ${steps.join(", ")}`, { steps: steps ?? [] });
      return 0;
    }
    const onStep = ({ step, done }: { readonly step: string; readonly done?: string }): void =>
      note(`${step}: ${done ?? "nothing to do"}`);
    const kept = await keptData(common.system);
    const steps = await removeFromHost({ ...common, onStep }, signal);
    if (steps === undefined) {
      await print(nothing, { steps: [] });
      return 0;
    }
    const rows = steps.map(({ step, done }) => [step, done ?? ""]);
    const fate = kept.map(({ place, deletion }) => `The data on ${place} was kept. To delete it: ${deletion}`);
    await print([columns(rows), "", ...fate].join("\n").trimEnd(), { steps, kept });
    return 0;
  },
});

const nothing = "this host was not set up by 'osb host setup'";
