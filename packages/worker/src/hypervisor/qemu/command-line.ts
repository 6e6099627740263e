import type { DiskAttachment, VmSpec, NetworkAttachment } from "../hypervisor.ts";
import type { KvmAccess } from "../kvm-access.ts";
import { diskNodes } from "../qmp/disk-nodes.ts";

/** Facts of the host that decide the command line. */
export interface QemuHost {
  readonly program: string;
  readonly accelerator: "kvm" | "tcg";
  /** How QEMU reaches /dev/kvm; absent under TCG. */
  readonly kvmAccess?: KvmAccess;
  /** The processor of guests under KVM: `host`, or a model that QEMU names. Absent: `host`. */
  readonly cpuModel?: string;
  /** Identity of the host's processor as the guest sees it; empty where the guest sees a model or an emulated one. */
  readonly processor: string;
  /** Whether QEMU inherits /dev/vhost-net, so that the kernel moves the packets of a TAP. Absent: it does not. */
  readonly vhostNet?: boolean;
}

export type Inherited = "qmp" | "agent" | "tap" | "kvm" | "vhost-net" | "vsock";

/** The descriptors that QEMU inherits, in order, starting at {@link firstInherited}. */
export function inheritedDescriptors(spec: Pick<VmSpec, "network" | "vsock">, host: QemuHost): readonly Inherited[] {
  const tap = spec.network.kind === "tap";
  return [
    "qmp",
    "agent",
    ...(tap ? (["tap"] as const) : []),
    ...(host.kvmAccess?.by === "descriptor" ? (["kvm"] as const) : []),
    ...(tap && host.vhostNet === true ? (["vhost-net"] as const) : []),
    ...(spec.vsock === undefined ? [] : (["vsock"] as const)),
  ];
}

/** The number after standard input, output and error. */
const firstInherited = 3;

/**
 * The newest machine type of the oldest supported QEMU (9.0). Only a QEMU that knows the machine type of a snapshot
 * restores it, so the type is pinned.
 */
export const machineType = "pc-q35-9.0";

/** Size of QEMU's ring buffer for the guest's console, a power of two. */
export const consoleBytes = 64 * 1024;

/** `boot`: from the kernel; `restore`: stopped, until a device state is loaded. */
export type QemuStart = "boot" | "restore";

/** The argument list of QEMU, program first. Pure. */
export function qemuCommandLine(spec: VmSpec, host: QemuHost, start: QemuStart): [string, ...string[]] {
  const inherited = inheritedDescriptors(spec, host);
  const fd = (name: Inherited): number => firstInherited + inherited.indexOf(name);
  return [
    host.program,
    ...["-name", `guest=${spec.directory.split("/").at(-1)}`],
    ...isolation,
    // QEMU stays, paused, after its guest ends: its console can still be read.
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
    ...networkArguments(spec.network, host, fd),
    ...["-object", "rng-random,id=rng0,filename=/dev/urandom"],
    ...["-device", device("virtio-rng-pci", "rng=rng0")],
    ...hotplugArguments(spec),
    ...["-device", "vmgenid,guid=auto"],
    ...vsockArguments(spec, fd("vsock")),
    // A device state has no section that names its machine. The worker compares machines before a restore.
    ...(start === "restore" ? ["-global", "migration.send-configuration=off", "-incoming", "defer", "-S"] : []),
  ];
}

/**
 * The argument list of a probe: a machine with the processor, machine type and system call filter of a sandbox's. Its
 * first inherited descriptor is the guest's firmware. The guest's write to port 0xf4 ends QEMU with an exit code.
 */
export function probeCommandLine(host: QemuHost): [string, ...string[]] {
  return [
    ...probeMachine(host, firstInherited + 1),
    ...["-m", "16M"],
    ...["-bios", inheritedFile(firstInherited)],
    ...["-device", "isa-debug-exit,iobase=0xf4,iosize=1"],
  ];
}

/**
 * The argument list of a probe that boots a kernel. Its first inherited descriptors are the kernel and an initramfs. The
 * guest's console is QEMU's standard output.
 */
export function kernelProbeCommandLine(host: QemuHost): [string, ...string[]] {
  return [
    ...probeMachine(host, firstInherited + 2),
    ...["-m", "256M"],
    ...["-kernel", inheritedFile(firstInherited), "-initrd", inheritedFile(firstInherited + 1)],
    ...["-append", "console=ttyS0 quiet panic=-1 reboot=t"],
    ...["-chardev", "stdio,id=console,signal=off", "-device", "isa-serial,chardev=console"],
  ];
}

function probeMachine(host: QemuHost, kvm: number): [string, ...string[]] {
  return [
    host.program,
    ...["-name", "guest=probe"],
    ...isolation,
    ...["-action", "reboot=shutdown,shutdown=poweroff"],
    ...["-machine", machine],
    ...processorArguments(host, kvm),
  ];
}

/** By descriptor: QEMU's user may have no way through the directories of the worker's user. */
function inheritedFile(fd: number): string {
  return `/proc/self/fd/${fd}`;
}

/** No default devices, no configuration files, and no system call that a machine never needs. */
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

/** `kvm`: the number of the inherited descriptor of /dev/kvm, where there is one. */
function processorArguments({ accelerator, kvmAccess, cpuModel = "host" }: QemuHost, kvm: number): readonly string[] {
  if (accelerator === "tcg") return ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-svm"];
  // A processor that lacks a feature of the model would start guests that fail later: `enforce` refuses them.
  const processor = ["-cpu", `${cpuModel === "host" ? "host" : `${cpuModel},enforce`},-vmx,-svm`];
  if (kvmAccess?.by !== "descriptor") return ["-accel", "kvm", ...processor];
  return ["-add-fd", `fd=${kvm},set=${kvmSet}`, "-accel", `kvm${handedOver}`, ...processor];
}

/** The set of descriptors (`-add-fd`) that holds /dev/kvm. */
const kvmSet = 1;
const handedOver = `,device=/dev/fdset/${kvmSet}`;

/**
 * The arguments that the guest can observe: devices, without the host's paths and descriptors. A device state loads
 * only into the same devices in the same order. Pure.
 */
export function guestVisible(spec: VmSpec, host: QemuHost): readonly string[] {
  const line = qemuCommandLine(spec, host, "boot");
  return line
    .filter((argument, index) => {
      const option = line[index - 1] ?? "";
      return ["-machine", "-cpu", "-accel", "-smp", "-m", "-device", "-rtc", "-append"].includes(option);
    })
    .map((argument) =>
      argument
        .replace(/(?<=[,^])drive=[^,]*,/, "")
        .replace(handedOver, "")
        .replace(ownVsock, ""),
    );
}

/** A private mapping: machines of one base share the pages that none of them has written. */
function memoryBackend({ memoryBase, memoryMib }: VmSpec): string {
  // QEMU's option syntax doubles a comma in a file name.
  const path = memoryBase.replaceAll(",", ",,");
  return `memory-backend-file,id=ram,size=${memoryMib}M,mem-path=${path},share=off,readonly=on,rom=off`;
}

function memorySize({ memoryMib, hotplugMib }: VmSpec): string {
  // QEMU demands a slot where memory can be added, although virtio-mem uses none.
  return hotplugMib === 0 ? `size=${memoryMib}M` : `size=${memoryMib}M,slots=1,maxmem=${memoryMib + hotplugMib}M`;
}

/**
 * The device for memory hotplug. Until memory is plugged it costs no pages of the host, no reservation and no page
 * tables of the guest. `x-early-migration=off` keeps its state in the device state, outside the memory stream.
 */
function hotplugArguments({ hotplugMib }: VmSpec): string[] {
  if (hotplugMib === 0) return [];
  const options = `memdev=growth,id=${hotplugDevice},block-size=${hotplugBlockMib}M,requested-size=0,x-early-migration=off`;
  return [
    ...["-object", `memory-backend-ram,id=growth,size=${hotplugMib}M,reserve=off`],
    ...["-device", device("virtio-mem-pci", options)],
  ];
}

/**
 * The last device, so that its state is the last section of a device state and its slot on the bus is no other device's.
 * Machines of one snapshot have different addresses: a guest reads its own again when its device is restored.
 */
function vsockArguments({ vsock }: VmSpec, descriptor: number): string[] {
  if (vsock === undefined) return [];
  return ["-device", device("vhost-vsock-pci", `guest-cid=${vsock.cid},vhostfd=${descriptor}`)];
}

/** The parts of a vsock device's arguments that differ from machine to machine. */
const ownVsock = /,guest-cid=\d+,vhostfd=\d+$/;

/** The id of the device for memory hotplug. */
export const hotplugDevice = "growth0";

/** The unit of memory hotplug: a huge page of x86. */
const hotplugBlockMib = 2;

/** A device that speaks modern virtio only. */
function device(driver: string, options: string): string {
  return `${driver},disable-legacy=on,${options}`;
}

function diskArguments(disk: DiskAttachment): string[] {
  const nodes = diskNodes(disk);
  const top = nodes.at(-1)?.["node-name"];
  return [
    ...nodes.flatMap((blockdev) => ["-blockdev", JSON.stringify(blockdev)]),
    ...["-device", device("virtio-blk-pci", `drive=${top},id=${diskDevice(disk.name)},serial=${disk.name}`)],
  ];
}

/** The id of a disk's device. */
export function diskDevice(disk: string): string {
  return `disk-${disk}`;
}

function networkArguments(
  network: NetworkAttachment,
  { accelerator, vhostNet }: QemuHost,
  fd: (name: Inherited) => number,
): string[] {
  // Every machine has this MAC address, since a snapshot contains it. Each guest then sets its own.
  const nic = device("virtio-net-pci", "netdev=net0,mac=52:54:00:12:34:56,romfile=");
  switch (network.kind) {
    case "none":
      return [];
    case "user":
      return [...["-netdev", "user,id=net0,ipv6=off"], ...["-device", nic]];
    case "tap": {
      const vhost = vhostNet === true ? `vhost=on,vhostfd=${fd("vhost-net")}` : "vhost=off";
      // vhost cannot reset single queues. Without that feature a snapshot wakes on hosts with and without vhost.
      const common = accelerator === "kvm" ? `${nic},queue_reset=off` : nic;
      return [...["-netdev", `tap,id=net0,fd=${fd("tap")},${vhost}`], ...["-device", common]];
    }
  }
}
