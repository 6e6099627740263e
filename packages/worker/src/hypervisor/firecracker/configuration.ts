import { relative } from "node:path";
import type { VmSpec } from "../hypervisor.ts";
import type { ApiRequest } from "./api-client.ts";
import { diskImage, ownNames } from "./paths.ts";

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
    ...hotplugConfiguration(spec),
  ];
}

/** The only configuration that a snapshot does not have. */
export const consoleConfiguration = put("/serial", { serial_out_path: ownNames.console });

/**
 * The machine and its devices. Paths are relative, so that a snapshot loads in another machine's directory: Firecracker's
 * own directory has links to the disks that never change.
 */
export function deviceConfiguration(spec: VmSpec): readonly ApiRequest[] {
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
            // Every machine has this MAC address, since a snapshot contains it. Each guest then sets its own.
            guest_mac: "52:54:00:12:34:56",
            host_dev_name: spec.network.device,
          }),
        ]
      : []),
    // Firecracker carries vsock over a unix socket, so the address has no meaning outside the guest.
    put("/vsock", { guest_cid: 3, uds_path: ownNames.agent }),
    put("/entropy", {}),
  ];
}

/** The device for memory hotplug. Texts of compatibility name its size alone. */
function hotplugConfiguration({ hotplugMib }: VmSpec): readonly ApiRequest[] {
  const sizeMib = hotplugSizeMib(hotplugMib);
  return sizeMib === 0 ? [] : [put("/hotplug/memory", { total_size_mib: sizeMib, block_size_mib: 2 })];
}

/** The device has whole slots, each 128 MiB of Firecracker's memory. */
const hotplugSlotMib = 128;

/** The size of the hotplug device of a VM that may receive `hotplugMib`. Pure. */
export function hotplugSizeMib(hotplugMib: number): number {
  return hotplugMib - (hotplugMib % hotplugSlotMib);
}

/** Firecracker reports a reset by the keyboard controller as the end of the VM, and a triple fault as its own failure. */
export function bootArguments({ bootArguments: common }: VmSpec): readonly string[] {
  return [
    ...common.filter((argument) => !argument.startsWith("reboot=")),
    "reboot=k",
    // The controller has no keyboard and no mouse to look for.
    ...["i8042.noaux", "i8042.nomux", "i8042.dumbkbd"],
  ];
}

function put(path: string, body: object): ApiRequest & { readonly body: object } {
  return { method: "PUT", path, body };
}
