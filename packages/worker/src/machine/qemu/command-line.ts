import { join } from "node:path";
import type { DiskAttachment, MachineSpec, NetworkAttachment } from "../machine.ts";

/** What the command line needs to know of the host. */
export interface QemuHost {
  readonly program: string;
  readonly accelerator: "kvm" | "tcg";
  readonly vhostVsock: boolean;
}

/** Descriptors that QEMU inherits, in the order of {@link qemuCommandLine}'s use of them. */
export const inheritedFds = { qmp: 3, agent: 4, tap: 5 } as const;

export const socketNames = { qmp: "qmp.sock", agent: "agent.sock" } as const;

/**
 * The oldest machine type of the versions that are supported (QEMU 9.0): a snapshot can be restored only by a QEMU
 * that knows its machine type, so it is pinned.
 */
export const machineType = "pc-q35-9.0";

/** How much of the guest's console QEMU keeps, a power of two. */
export const consoleBytes = 64 * 1024;

/** The whole argument list, in the order `ps` shows it. Pure: the test is a snapshot. */
export function qemuCommandLine(spec: MachineSpec, host: QemuHost): [string, ...string[]] {
  return [
    host.program,
    ...["-name", `guest=${spec.directory.split("/").at(-1)}`],
    "-nodefaults",
    "-no-user-config",
    ...["-display", "none"],
    ...["-monitor", "none"],
    // The guest's end leaves QEMU paused, so that its console can still be read.
    ...["-action", "reboot=shutdown,shutdown=pause"],
    ...["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ...[
      "-machine",
      [
        machineType,
        "usb=off,vmport=off,smbus=off,hpet=off,sata=off,i8042=off",
        "graphics=off,dump-guest-core=off,mem-merge=off",
        "memory-backend=ram",
      ].join(","),
    ],
    ...["-accel", host.accelerator === "kvm" ? "kvm" : "tcg,thread=multi,tb-size=256"],
    ...["-cpu", host.accelerator === "kvm" ? "host,-vmx,-svm" : "max,-svm"],
    ...["-smp", `cpus=${spec.vcpus},sockets=1,cores=${spec.vcpus},threads=1`],
    ...["-m", `size=${spec.memoryMib}M`],
    ...["-object", `memory-backend-memfd,id=ram,size=${spec.memoryMib}M,share=off`],
    ...["-rtc", "base=utc,clock=host,driftfix=none"],
    ...["-kernel", spec.kernel],
    ...["-initrd", spec.initramfs],
    ...["-append", spec.bootArguments.join(" ")],
    ...["-chardev", `socket,id=qmp,fd=${inheritedFds.qmp},server=on,wait=off`],
    ...["-mon", "chardev=qmp,mode=control"],
    ...["-chardev", `ringbuf,id=console,size=${consoleBytes}`],
    ...["-device", "isa-serial,chardev=console"],
    ...["-device", device("virtio-serial-pci", "id=serial0,max_ports=2")],
    ...["-chardev", `socket,id=agent,fd=${inheritedFds.agent},server=on,wait=off`],
    ...["-device", "virtserialport,bus=serial0.0,nr=1,chardev=agent,name=agent"],
    ...spec.disks.flatMap(diskArguments),
    ...networkArguments(spec.network),
    ...["-object", "rng-random,id=rng0,filename=/dev/urandom"],
    ...["-device", device("virtio-rng-pci", "rng=rng0")],
    ...["-device", "vmgenid,guid=auto"],
  ];
}

/** Modern virtio only. */
function device(driver: string, options: string): string {
  return `${driver},disable-legacy=on,${options}`;
}

function diskArguments(disk: DiskAttachment): string[] {
  const { name, file, readOnly } = disk;
  const blockdevs: object[] =
    disk.format === "raw"
      ? [rawFile(name, file)]
      : [
          rawFile(`${name}-base`, disk.base),
          {
            driver: "qcow2",
            "node-name": name,
            // The base is named here and not in the overlay: the chain is ours to say, never the file's.
            backing: `${name}-base`,
            discard: "unmap",
            file: { driver: "file", filename: file, discard: "unmap" },
          },
        ];
  return [
    ...blockdevs.flatMap((blockdev) => ["-blockdev", JSON.stringify(blockdev)]),
    ...["-device", device("virtio-blk-pci", `drive=${name},id=disk-${name},serial=${name}`)],
  ];

  function rawFile(node: string, filename: string): object {
    return {
      driver: "raw",
      "node-name": node,
      "read-only": true,
      file: { driver: "file", filename, "read-only": readOnly || node !== name },
    };
  }
}

function networkArguments(network: NetworkAttachment): string[] {
  // One address for all: each machine is alone in its network, and a restored one need not change.
  const nic = device("virtio-net-pci", "netdev=net0,mac=52:54:00:12:34:56,romfile=");
  switch (network.kind) {
    case "none":
      return [];
    case "user":
      return [...["-netdev", "user,id=net0,ipv6=off"], ...["-device", nic]];
    case "tap":
      return [...["-netdev", `tap,id=net0,fd=${inheritedFds.tap},vhost=off`], ...["-device", nic]];
  }
}

/** Where the machine's sockets are. */
export function socketPaths(directory: string): { readonly qmp: string; readonly agent: string } {
  return { qmp: join(directory, socketNames.qmp), agent: join(directory, socketNames.agent) };
}
