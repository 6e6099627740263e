import type { VmSpec } from "../hypervisor.ts";
import type { FirecrackerHost } from "./command-line.ts";
import { bootArguments, deviceConfiguration } from "./configuration.ts";

/**
 * The machine that a guest of `spec` sees: Firecracker's version, the host's processor, the kernel's arguments and the
 * devices. Snapshots store this text, so its form stays. Pure.
 */
export function compatibilityOf(spec: VmSpec, { version, processor }: FirecrackerHost): string {
  const devices = deviceConfiguration({ ...spec, directory: "/" }).map(({ path, body }) => [
    path,
    { ...body, path_on_host: undefined },
  ]);
  const machine = [processor, bootArguments(spec).join(" "), spec.hotplugMib, devices];
  return `${hypervisorText(version)} ${JSON.stringify(machine)}`;
}

/** How two texts of {@link compatibilityOf} differ, for people. */
export function describeDifference(captured: string, offered: string): string {
  const [was, is] = [partsOf(captured), partsOf(offered)];
  if (was === undefined || is === undefined) {
    return "it was captured by another hypervisor, and this host's machines are Firecracker's";
  }
  if (was.version !== is.version) {
    return `it was captured by Firecracker ${was.version}, and this host has Firecracker ${is.version}`;
  }
  if (was.processor !== is.processor) {
    return `its guest sees the processor of its host (${model(was.processor)}), and this host has another (${model(is.processor)})`;
  }
  return "its machine has other devices or another shape";
}

function hypervisorText(version: string): string {
  return `firecracker ${version}`;
}

function partsOf(compatibility: string): { readonly version: string; readonly processor: string } | undefined {
  const [, version, machine] = /^firecracker (\S+) (\[.*\])$/.exec(compatibility) ?? [];
  if (version === undefined || machine === undefined) return undefined;
  try {
    const [processor] = JSON.parse(machine) as readonly unknown[];
    return { version, processor: String(processor) };
  } catch {
    return undefined;
  }
}

/** The model's name, of a text of `describeProcessor`. */
function model(processor: string): string {
  return processor.split("; ")[0] ?? "";
}
