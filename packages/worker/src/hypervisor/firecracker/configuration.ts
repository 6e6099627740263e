import { relative } from "node:path";
import type { VmSpec } from "../hypervisor.ts";
import type { ApiRequest } from "./api-client.ts";
import type { FirecrackerHost } from "./command-line.ts";
import { diskImage, names } from "./paths.ts";

/** The requests that describe a VM before it boots, in their order. Pure. */
export function bootConfiguration(spec: VmSpec): readonly ApiRequest[] {
  return [
    consoleConfiguration,
    put("/boot-source", {
      kernel_image_path: spec.kernel,
      initrd_path: spec.initramfs,
      boot_args: bootArguments(spec).join(" "),
    }),
    ...deviceConfiguration(spec),
  ];
}

/** The only configuration that a snapshot does not have. */
export const consoleConfiguration = put("/serial", { serial_out_path: names.console });

/** The machine and its devices. Paths are relative to the machine's directory, so that a snapshot loads in another one. */
function deviceConfiguration(spec: VmSpec): readonly ApiRequest[] {
  return [
    put("/machine-config", { vcpu_count: spec.vcpus, mem_size_mib: spec.memoryMib, smt: false }),
    // In the guest's order: /dev/vda, /dev/vdb, ...
    ...spec.disks.map(({ name, base, layers }) =>
      put(`/drives/${name}`, {
        drive_id: name,
        path_on_host: layers.length > 0 ? diskImage(name) : relative(spec.directory, base),
        is_root_device: false,
        is_read_only: layers.length === 0,
        // The guest's flushes reach the host's disk.
        cache_type: "Writeback",
      }),
    ),
    ...(spec.network.kind === "tap"
      ? [
          put("/network-interfaces/net0", {
            iface_id: "net0",
            // The same for every machine, as a snapshot contains it. Each guest then sets an address of its own.
            guest_mac: "52:54:00:12:34:56",
            host_dev_name: spec.network.device,
          }),
        ]
      : []),
    // Firecracker carries vsock over a unix socket, so the address has no meaning outside the guest.
    put("/vsock", { guest_cid: 3, uds_path: names.agent }),
    put("/entropy", {}),
  ];
}

/** Firecracker reports a reset by the keyboard controller as the end of the VM, and a triple fault as its own failure. */
function bootArguments({ bootArguments: common }: VmSpec): readonly string[] {
  return [
    ...common.filter((argument) => !argument.startsWith("reboot=")),
    "reboot=k",
    // The controller has no keyboard and no mouse to look for.
    ...["i8042.noaux", "i8042.nomux", "i8042.dumbkbd"],
  ];
}

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

function put(path: string, body: object): ApiRequest & { readonly body: object } {
  return { method: "PUT", path, body };
}
