import { SandboxError } from "@opensandbox/wire/errors.ts";
import { flag } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { checkName, targetOptions } from "./azure-options.ts";
import { deployCheckout } from "./deploy-checkout.ts";
import type { TargetInput } from "./find-host.ts";

export const upgrade = defineCommand({
  summary: "Replace the version on a host or a fleet on Azure with this checkout",
  description: `Copies the database to /var/lib/opensandbox-upgrade.sqlite first. Then works as 'azure deploy': running machines keep
running, and the new server adopts them. Refuses a host on which no server runs.

In a fleet, this needs the image of the new version, which 'azure image' builds. The server gets this checkout, and workers
are replaced one after another: a machine of the new image joins, the sandboxes of an old worker move to the others with
their memory, and its machine is deleted. Without quota for one more machine, the old worker goes first. The autoscaling
waits meanwhile. After Ctrl-C or an error, the same command continues. Azure keeps backups of the database for two weeks.`,
  options: { ...targetOptions, dryRun: flag("print what a fleet's upgrade would change on Azure, with each body") },
  examples: [
    { line: "azure upgrade", shows: "upgrade the host to this checkout" },
    { line: "osb azure image && osb azure upgrade", shows: "upgrade a fleet" },
  ],
  check: ({ name }) => checkName(name),
  async run({ dryRun, ...input }, context) {
    if (dryRun) return await printPlan(input, context);
    return await deployCheckout(input, context, {
      prepare: async (remote, { signal }) => {
        const { runRemote } = await import("./install/remote.ts");
        const active = await runRemote(remote, "systemctl is-active opensandbox || true", {}, signal);
        if (active.trim() !== "active") {
          const message = `no server runs on ${remote.address}, so there is nothing to upgrade: use '${context.host.program} azure deploy'`;
          throw new SandboxError("unavailable", message);
        }
        const copy = "/var/lib/opensandbox-upgrade.sqlite";
        await runRemote(remote, `sudo rm -f ${copy} && sudo osb admin backup --database-only ${copy}`, {}, signal);
      },
      onFleet: async (found, note, signal) => {
        const { upgradeFleet } = await import("./fleet/upgrade-fleet.ts");
        const workers = await upgradeFleet(found, { note }, signal);
        return { done: `upgraded ${found.host.name}: ${workers} workers were replaced`, workers };
      },
    });
  },
});

/** A single host is upgraded over ssh alone. */
async function printPlan(input: TargetInput, context: Context): Promise<number> {
  const { note, print, signal } = context;
  const { findHost } = await import("./find-host.ts");
  const { plannedUpgrade } = await import("./fleet/upgrade-fleet.ts");
  const { callLines } = await import("./resource-manager/planned-calls.ts");
  const found = await findHost(input, context);
  const calls = found.isFleet ? await plannedUpgrade(found, signal) : [];
  note(`would copy this checkout to ${found.hostname} over ssh and set it up`);
  await print(calls.length === 0 ? "nothing would change on Azure" : callLines(calls), calls);
  return 0;
}
