import { SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand } from "../../command.ts";
import { checkName, targetOptions } from "./azure-options.ts";
import { deployCheckout } from "./deploy-checkout.ts";

export const upgrade = defineCommand({
  summary: "Replace the version on a host on Azure with this checkout",
  description: `Copies the database to /var/lib/opensandbox-upgrade.sqlite first. Then works as 'azure deploy': running machines keep
running, and the new server adopts them. Refuses a host on which no server runs.`,
  options: targetOptions,
  examples: [{ line: "azure upgrade", shows: "upgrade the host to this checkout" }],
  check: ({ name }) => checkName(name),
  async run(input, context) {
    return await deployCheckout(input, context, async (remote, { signal }) => {
      const { runRemote } = await import("./install/remote.ts");
      const active = await runRemote(remote, "systemctl is-active opensandbox || true", {}, signal);
      if (active.trim() !== "active") {
        const message = `no server runs on ${remote.address}, so there is nothing to upgrade: use '${context.host.program} azure deploy'`;
        throw new SandboxError("unavailable", message);
      }
      const copy = "/var/lib/opensandbox-upgrade.sqlite";
      await runRemote(remote, `sudo rm -f ${copy} && sudo osb admin backup --database-only ${copy}`, {}, signal);
    });
  },
});
