import { createInterface } from "node:readline";
import { flag } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { checkName, targetOptions } from "./azure-options.ts";

export const destroy = defineCommand({
  summary: "Delete a host on Azure with its data",
  description: `Lists what it will delete and asks for the name. Deletes only resources with the tag opensandbox=NAME, and the
resource group only if it has the tag and nothing else is left in it.`,
  options: {
    ...targetOptions,
    yes: flag("delete without asking"),
    dryRun: flag("list what would be deleted and delete nothing"),
  },
  examples: [
    { line: "azure destroy --dry-run", shows: "list what would be deleted" },
    { line: "azure destroy --name lab", shows: "delete the host lab, after a question" },
  ],
  check: ({ name }) => checkName(name),
  async run({ yes, dryRun, ...input }, context) {
    const { note, print, progress, signal } = context;
    const { openTarget } = await import("./find-host.ts");
    const { destroyHost, findOwned } = await import("./resource-manager/destroy-host.ts");
    using shown = progress();
    shown.report("asking Azure");
    const { arm, host } = await openTarget(input, context);
    const owned = await findOwned(arm, host, signal);
    shown.pause();
    if (owned === undefined || (owned.resources.length === 0 && !owned.group)) {
      await print(`there is no host ${host.name} to delete`, { deleted: [], kept: [] });
      return 0;
    }
    const ids = owned.resources.map(({ id }) => id);
    const listed = [...ids, ...(owned.group ? [`the resource group ${host.name}, if nothing else is in it`] : [])];
    if (dryRun) {
      await print(`would delete:\n${listed.map((line) => `  ${line}`).join("\n")}`, {
        wouldDelete: ids,
        group: owned.group,
      });
      return 0;
    }
    if (!yes) {
      note(`this deletes with all data:\n${listed.map((line) => `  ${line}`).join("\n")}`);
      if (!(await confirms(host.name, context))) {
        await print("deleted nothing", { deleted: [], kept: ids });
        return 1;
      }
    }
    const onDelete = (id: string): void => shown.report(`deleting ${id}`);
    const { deleted, kept } = await destroyHost(arm, host, owned, onDelete, signal);
    shown.pause();
    const left =
      kept.length === 0
        ? ""
        : `\nkept the resource group, which has resources without the tag:\n${kept.map((id) => `  ${id}`).join("\n")}`;
    await print(`deleted ${deleted.length} resources${left}`, { deleted, kept });
    return 0;
  },
});

/** Asks for the name. Any other answer, and the end of the input, is a refusal. */
async function confirms(name: string, { host, note }: Context): Promise<boolean> {
  note(`to confirm, type ${name}:`);
  using lines = createInterface({ input: host.stdin });
  for await (const line of lines) return line.trim() === name;
  return false;
}
