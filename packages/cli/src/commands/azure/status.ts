import { columns } from "#output/table.ts";
import { defineCommand } from "../../command.ts";
import { checkName, targetOptions } from "./azure-options.ts";

export const status = defineCommand({
  summary: "Show a host on Azure: machine, address and service",
  options: targetOptions,
  examples: [{ line: "azure status", shows: "show whether the machine and the service run" }],
  check: ({ name }) => checkName(name),
  async run(input, context) {
    const { print, progress, signal } = context;
    using shown = progress();
    shown.report("asking Azure");
    const { findHost } = await import("./find-host.ts");
    const { instanceView } = await import("./resource-manager/single-host.ts");
    const { runRemote } = await import("./install/remote.ts");
    const { arm, host, remote, hostname, size, location, provisioningState, unit } = await findHost(input, context);
    const view = (await arm.require(instanceView(host), signal)) as {
      statuses?: readonly { readonly code: string }[];
    };
    const power = view.statuses?.find(({ code }) => code.startsWith("PowerState/"))?.code.slice("PowerState/".length);
    const running = power === "running";
    // A stopped machine does not answer.
    const service = running
      ? await runRemote(remote, `systemctl is-active ${unit} || true`, {}, signal).then(
          (text) => text.trim(),
          () => "unreachable by ssh",
        )
      : "stopped";
    shown.pause();
    const result = {
      name: host.name,
      hostname,
      address: remote.address,
      location,
      size,
      provisioningState,
      power,
      service,
    };
    await print(columns(Object.entries(result).map(([name, value]) => [name, value ?? "unknown"])), result);
    return running && service === "active" ? 0 : 1;
  },
});
