import { columns } from "#output/table.ts";
import { defineCommand } from "../../command.ts";
import { checkName, targetOptions } from "./azure-options.ts";
import type { ScaleSetTarget } from "./fleet/workers/scale-set.ts";

export const status = defineCommand({
  summary: "Show a host or a fleet on Azure: machine, address, service and workers",
  description:
    "Of a fleet, shows its server, and the image of each machine of a worker. Exits with 1 unless machine and service run.",
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
    const { arm, host, remote, hostname, size, location, provisioningState, unit, isFleet } = await findHost(
      input,
      context,
    );
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
    const workers = isFleet ? await workersOf({ ...host, arm }, signal) : undefined;
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
    const rows = Object.entries(result).map(([name, value]) => [name, value ?? "unknown"]);
    if (workers !== undefined) rows.push(["workers", workersLine(workers, host.name)]);
    await print(columns(rows), { ...result, ...(workers === undefined ? {} : { workers }) });
    return running && service === "active" ? 0 : 1;
  },
});

interface Workers {
  /** The number of machines by the name of their image. */
  readonly images: Readonly<Record<string, number>>;
  /** Whether an upgrade has begun and not ended. */
  readonly isUpgrading: boolean;
}

async function workersOf(target: ScaleSetTarget, signal: AbortSignal): Promise<Workers> {
  const { findScaleSet, listMachines, upgradeTag } = await import("./fleet/workers/scale-set.ts");
  const set = await findScaleSet(target, signal);
  if (set === undefined) return { images: {}, isUpgrading: false };
  const { tags } = set;
  const images: Record<string, number> = {};
  for (const { image } of await listMachines(target, signal)) {
    const name = image.split("/").at(-1) ?? image;
    images[name] = (images[name] ?? 0) + 1;
  }
  return { images, isUpgrading: tags[upgradeTag] !== undefined };
}

function workersLine({ images, isUpgrading }: Workers, name: string): string {
  const machines = Object.entries(images).map(([image, count]) => `${count} from ${image}`);
  const listed = machines.length === 0 ? "none" : machines.join(", ");
  return isUpgrading ? `${listed}; an upgrade has begun: 'osb azure upgrade --name ${name}' continues it` : listed;
}
