import { basename, join } from "node:path";
import type { DiskAttachment, VmSpec, NetworkAttachment } from "../hypervisor.ts";
import type { KvmAccess } from "./kvm-access.ts";

/** The host's part of the command line. */
export interface QemuHost {
  readonly program: string;
  readonly accelerator: "kvm" | "tcg";
  /** How QEMU reaches /dev/kvm; absent under TCG. */
  readonly kvmAccess?: KvmAccess;
  readonly vhostVsock: boolean;
  /** What of the host's processor the guest sees; empty where it sees one that is emulated. */
  readonly processor: string;
}

export type Inherited = "qmp" | "agent" | "tap" | "kvm";

/** The descriptors that QEMU inherits, in this order, from 3 on. */
export function inheritedDescriptors(spec: Pick<VmSpec, "network">, host: QemuHost): readonly Inherited[] {
  return [
    "qmp",
    "agent",
    ...(spec.network.kind === "tap" ? (["tap"] as const) : []),
    ...(host.kvmAccess?.by === "descriptor" ? (["kvm"] as const) : []),
  ];
}

/** Standard input, output and error come before it. */
const firstInherited = 3;

export const socketNames = { qmp: "qmp.sock", agent: "agent.sock" } as const;

/**
 * The oldest machine type of the versions that are supported (QEMU 9.0): a snapshot can be restored only by a QEMU
 * that knows its machine type, so it is pinned.
 */
export const machineType = "pc-q35-9.0";

/** How much of the guest's console QEMU keeps, a power of two. */
export const consoleBytes = 64 * 1024;

/** `boot`: from the kernel; `restore`: stopped, waiting for a state of its devices. */
export type QemuStart = "boot" | "restore";

/** The whole argument list, in the order `ps` shows it. Pure: the test is a snapshot. */
export function qemuCommandLine(spec: VmSpec, host: QemuHost, start: QemuStart): [string, ...string[]] {
  const inherited = inheritedDescriptors(spec, host);
  const fd = (name: Inherited): number => firstInherited + inherited.indexOf(name);
  return [
    host.program,
    ...["-name", `guest=${spec.directory.split("/").at(-1)}`],
    ...isolation,
    // The guest's end leaves QEMU paused, so that its console can still be read.
    ...["-action", "reboot=shutdown,shutdown=pause"],
    ...["-machine", `${machine},memory-backend=ram`],
    ...processorArguments(host, fd("kvm")),
    ...["-smp", `cpus=${spec.vcpus},sockets=1,cores=${spec.vcpus},threads=1`],
    ...["-m", memorySize(spec)],
    ...["-object", memoryBackend(spec)],
    ...["-rtc", "base=utc,clock=host,driftfix=none"],
    ...["-kernel", spec.kernel],
    ...["-initrd", spec.initramfs],
    ...["-append", spec.bootArguments.join(" ")],
    ...["-chardev", `socket,id=qmp,fd=${fd("qmp")},server=on,wait=off`],
    ...["-mon", "chardev=qmp,mode=control"],
    ...["-chardev", `ringbuf,id=console,size=${consoleBytes}`],
    ...["-device", "isa-serial,chardev=console"],
    ...["-device", device("virtio-serial-pci", "id=serial0,max_ports=2")],
    ...["-chardev", `socket,id=agent,fd=${fd("agent")},server=on,wait=off`],
    ...["-device", "virtserialport,bus=serial0.0,nr=1,chardev=agent,name=agent"],
    ...spec.disks.flatMap(diskArguments),
    ...networkArguments(spec.network, fd("tap")),
    ...["-object", "rng-random,id=rng0,filename=/dev/urandom"],
    ...["-device", device("virtio-rng-pci", "rng=rng0")],
    ...hotplugArguments(spec),
    ...["-device", "vmgenid,guid=auto"],
    // The saved state is that of the devices alone, without the section that says what machine it is of: who restores
    // it has compared that already.
    ...(start === "restore" ? ["-global", "migration.send-configuration=off", "-incoming", "defer", "-S"] : []),
  ];
}

/**
 * The smallest machine that shows whether the accelerator runs a guest: the processor, machine type and system call
 * filter of every other one, and `firmware` as its only program. A write to port 0xf4 ends QEMU with an exit code.
 */
export function probeCommandLine(host: QemuHost): [string, ...string[]] {
  const firmware = firstInherited;
  return [
    host.program,
    ...["-name", "guest=probe"],
    ...isolation,
    ...["-action", "reboot=shutdown,shutdown=poweroff"],
    ...["-machine", machine],
    ...processorArguments(host, firmware + 1),
    ...["-m", "16M"],
    // By descriptor, since the user that QEMU runs as may pass through no directory of this process's user.
    ...["-bios", `/proc/self/fd/${firmware}`],
    ...["-device", "isa-debug-exit,iobase=0xf4,iosize=1"],
  ];
}

/** Nothing that was not asked for, and no system call that a machine never needs. */
const isolation = [
  "-nodefaults",
  "-no-user-config",
  ...["-display", "none"],
  ...["-monitor", "none"],
  ...["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
] as const;

const machine = [
  machineType,
  "usb=off,vmport=off,smbus=off,hpet=off,sata=off,i8042=off",
  "graphics=off,dump-guest-core=off,mem-merge=off",
].join(",");

/** `kvm`: the descriptor of /dev/kvm, where QEMU inherits one. */
function processorArguments({ accelerator, kvmAccess }: QemuHost, kvm: number): readonly string[] {
  if (accelerator === "tcg") return ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-svm"];
  const processor = ["-cpu", "host,-vmx,-svm"];
  if (kvmAccess?.by !== "descriptor") return ["-accel", "kvm", ...processor];
  return ["-add-fd", `fd=${kvm},set=${kvmSet}`, "-accel", `kvm${handedOver}`, ...processor];
}

/** QEMU's name for the descriptor of /dev/kvm; sets are numbered by whoever adds them. */
const kvmSet = 1;
const handedOver = `,device=/dev/fdset/${kvmSet}`;

/**
 * What the guest sees of its machine: the arguments that make devices, without the host's paths and descriptors. The
 * state of devices can be read only by the same devices in the same order. Pure.
 */
export function guestVisible(spec: VmSpec, host: QemuHost): readonly string[] {
  const line = qemuCommandLine(spec, host, "boot");
  return line
    .filter((argument, index) => {
      const option = line[index - 1] ?? "";
      return ["-machine", "-cpu", "-accel", "-smp", "-m", "-device", "-rtc", "-append"].includes(option);
    })
    .map((argument) => argument.replace(/(?<=[,^])drive=[^,]*,/, "").replace(handedOver, ""));
}

/** Mapped privately: pages that nobody wrote to are the file's own, and shared with every other machine of that base. */
function memoryBackend({ memoryBase, memoryMib }: VmSpec): string {
  // A comma in a file name is doubled (QEMU's option syntax).
  const path = memoryBase.replaceAll(",", ",,");
  return `memory-backend-file,id=ram,size=${memoryMib}M,mem-path=${path},share=off,readonly=on,rom=off`;
}

function memorySize({ memoryMib, hotplugMib }: VmSpec): string {
  // QEMU wants a slot named where memory may be added, although virtio-mem takes none.
  return hotplugMib === 0 ? `size=${memoryMib}M` : `size=${memoryMib}M,slots=1,maxmem=${memoryMib + hotplugMib}M`;
}

/**
 * Memory that a guest can be given later. Nothing of it is there before: neither pages of this host, which are not
 * reserved either, nor the guest's own tables for them. Its state is to be found among the devices', not in the part of
 * a migration that is for memory (`x-early-migration`).
 */
function hotplugArguments({ hotplugMib }: VmSpec): string[] {
  if (hotplugMib === 0) return [];
  const options = `memdev=growth,id=${hotplugDevice},block-size=${hotplugBlockMib}M,requested-size=0,x-early-migration=off`;
  return [
    ...["-object", `memory-backend-ram,id=growth,size=${hotplugMib}M,reserve=off`],
    ...["-device", device("virtio-mem-pci", options)],
  ];
}

/** The id of the device that has a guest's further memory. */
export const hotplugDevice = "growth0";

/** What of it can be given and taken at a time: a huge page of x86. */
const hotplugBlockMib = 2;

/** Modern virtio only. */
function device(driver: string, options: string): string {
  return `${driver},disable-legacy=on,${options}`;
}

function diskArguments(disk: DiskAttachment): string[] {
  const { name, base, layers } = disk;
  const bottom = { driver: "raw", "node-name": baseNode(name), "read-only": true, file: imageFile(base, true) };
  const nodes = layers.map((file, index) => {
    const backing = index === 0 ? bottom["node-name"] : layerNode(layers[index - 1]!);
    return { ...layerBlockdev(file, { writable: index === layers.length - 1 }), backing };
  });
  const top = nodes.at(-1)?.["node-name"] ?? bottom["node-name"];
  return [
    ...[bottom, ...nodes].flatMap((blockdev) => ["-blockdev", JSON.stringify(blockdev)]),
    ...["-device", device("virtio-blk-pci", `drive=${top},id=${diskDevice(name)},serial=${name}`)],
  ];
}

/** A qcow2 layer as QEMU opens it. What is below it is said here and not in the file: the chain is ours to say. */
export function layerBlockdev(file: string, { writable }: { readonly writable: boolean }) {
  return {
    driver: "qcow2",
    "node-name": layerNode(file),
    "read-only": !writable,
    ...(writable ? { discard: "unmap" } : {}),
    file: imageFile(file, !writable),
  };
}

export function baseNode(disk: string): string {
  return `${disk}-base`;
}

/** Layers have names that differ within a machine's directory, and so have their nodes. */
export function layerNode(file: string): string {
  return basename(file, ".qcow2");
}

/** Whether a node is a layer of the disk, rather than another disk's or QEMU's own. */
export function isLayerOf(disk: string, node: string): boolean {
  return node.startsWith(`${disk}-`) && !Number.isNaN(layerNumber(node));
}

/** Rises with the age of a disk: see the names of layers. NaN for what is no layer. */
export function layerNumber(node: string): number {
  return Number(/-(\d+)$/.exec(node)?.[1]);
}

/** The id of a disk's device. */
export function diskDevice(disk: string): string {
  return `disk-${disk}`;
}

function imageFile(filename: string, readOnly: boolean): object {
  return { driver: "file", filename, ...(readOnly ? { "read-only": true } : { discard: "unmap" }) };
}

function networkArguments(network: NetworkAttachment, tap: number): string[] {
  // One for all, since a snapshot has it: the guest takes one of its own.
  const nic = device("virtio-net-pci", "netdev=net0,mac=52:54:00:12:34:56,romfile=");
  switch (network.kind) {
    case "none":
      return [];
    case "user":
      return [...["-netdev", "user,id=net0,ipv6=off"], ...["-device", nic]];
    case "tap":
      return [...["-netdev", `tap,id=net0,fd=${tap},vhost=off`], ...["-device", nic]];
  }
}

/** Where the machine's sockets are. */
export function socketPaths(directory: string): { readonly qmp: string; readonly agent: string } {
  return { qmp: join(directory, socketNames.qmp), agent: join(directory, socketNames.agent) };
}
