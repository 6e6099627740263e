import type { HypervisorName } from "@opensandbox/wire/worker/worker.ts";
import type { AgentTransport } from "#host/agent-transport.ts";
import type { GuestMemory } from "./guest-memory.ts";

/**
 * Starts VMs of one kind. A hypervisor knows nothing of sandboxes, images or the control plane: it receives files, a
 * network device and numbers.
 */
export interface Hypervisor {
  readonly name: HypervisorName;
  readonly version: string;
  /**
   * Whether a VM's process makes files in the VM's directory. Where it does not, the directory is root's: a process that
   * its guest has taken over can put no link there, which root would follow.
   */
  readonly writesDirectory: boolean;
  /**
   * Starts a VM from the kernel. Resolves when its vCPUs run; the guest may still be booting. After a failure or an
   * abort no process is left.
   */
  boot(spec: VmSpec, signal: AbortSignal): Promise<Vm>;
  /** Absent where VMs cannot be restored. */
  readonly restoring?: Restoring;
  /**
   * Takes over the VM that an earlier worker started from `spec`. `pids`: the machine's processes. Absent where VMs end
   * with the process that started them.
   * @throws `unavailable` when none of the processes is the VM, or it does not answer
   */
  readonly adopt?: (spec: VmSpec, pids: readonly number[], signal: AbortSignal) => Promise<Vm>;
}

export interface Restoring {
  /**
   * The size of the memory base that a restore maps, in MiB. Beyond the boot memory it is a hole, where the hypervisor
   * maps the memory that the guest may receive. Absent: the boot memory alone. Pure.
   */
  baseMib?(spec: Pick<VmSpec, "memoryMib" | "hotplugMib">): number;
  /**
   * Describes the machine that a guest of `spec` sees. Memory and devices captured from one VM can be restored into
   * another when both texts are equal. Pure.
   */
  compatibilityOf(spec: VmSpec): string;
  /** Says for people how the machine of a snapshot (`captured`) differs from the one that this host offers. Pure. */
  describeDifference(captured: string, offered: string): string;
  /** Whether the disks of a VM can be enlarged while it runs: see {@link Vm.enlargeDisk}. */
  readonly enlargesDisks: boolean;
  /** Whether a VM can be given memory by {@link Vm.hotplug} before it runs, so that one template serves several sizes. */
  readonly hotplugsMemory: boolean;
  /** Whether a guest can take vCPUs offline and bring them online again. */
  readonly sparesProcessors: boolean;
  /** Starts the process of a VM whose memory and devices come from a snapshot. After a failure no process is left. */
  prepare(spec: VmSpec, signal: AbortSignal): Promise<PreparedVm>;
}

/** A process that waits to become a VM. Disposing it ends the process, unless it has become a VM. */
export interface PreparedVm extends AsyncDisposable {
  readonly pid: number;
  /**
   * Loads a captured VM, once. The VM is paused when this resolves.
   * @throws `incompatible` when the hypervisor cannot read the devices' state
   */
  restore(captured: CapturedVm, signal: AbortSignal): Promise<Vm>;
}

/** The parts of a VM that a capture took, apart from its disks. */
export interface CapturedVm {
  /** The file of {@link Capturing.saveDevices}, in the VM's directory before its process starts. */
  readonly deviceState: string;
  /** Whether the guest had hotplugged memory, as in {@link Capturing.memory}. */
  readonly hotplugged: boolean;
  /** The captured VM had a vsock device, and this one has none. */
  readonly omitVsock?: boolean;
  /** Writes the captured memory over the base's content. Called once; the VM is paused. */
  readonly fillMemory: (memory: GuestMemory) => Promise<void>;
}

/**
 * A running VM: one hypervisor process. Disposing it kills the process and frees nothing else; a second disposal does
 * nothing.
 */
export interface Vm extends AsyncDisposable {
  readonly pid: number;
  /** The way to the guest agent. */
  readonly agentTransport: AgentTransport;
  /** Settles once, when the guest stops running for any reason. Never rejects. */
  readonly exited: Promise<VmExit>;
  /** Stops the vCPUs and keeps the memory. Pausing a paused VM does nothing. */
  pause(): Promise<void>;
  /** Starts the vCPUs again. Resuming a running VM does nothing. */
  resume(): Promise<void>;
  /** The last 64 KiB that the guest wrote to its console. */
  console(): Promise<string>;
  /** Disconnects from the process and leaves it running, for another worker to adopt. */
  release(): void;
  /** Absent where VMs cannot be captured. */
  readonly capturing?: Capturing;
  /**
   * Enlarges the disk that writes to the layer `top` to `bytes`, and notifies the guest's driver. A restored VM must have
   * been resumed. Absent where disks keep their size.
   */
  readonly enlargeDisk?: (top: string, bytes: number) => Promise<void>;
  /** Absent where the guest's memory cannot change while it runs. */
  readonly hotplug?: MemoryHotplug;
}

/** Memory beyond `memoryMib` that the guest receives while it runs, up to the spec's `hotplugMib`. */
export interface MemoryHotplug {
  /** `requestedMib`: the last request, kept over a restore. `presentMib`: what the guest has. */
  state(): Promise<{ readonly requestedMib: number; readonly presentMib: number }>;
  /** Asks the guest to have `mib`, a multiple of 2. The guest takes or returns memory in its own time. */
  request(mib: number): Promise<void>;
}

/**
 * The steps of a capture, in the order in which they are called. Disk layers are named by their paths; the hypervisor
 * keeps no record of them but the chains that its process has open.
 */
export interface Capturing {
  /** Locates the guest's memory. `hotplugged`: with the memory that the guest can receive, which is skipped otherwise. */
  memory(hotplugged: boolean): Promise<GuestMemory>;
  /**
   * Reads the layers of each writable disk from the process: the lowest first, the one that takes writes last. Undoes
   * what a failed or killed caller left: ends a merge, closes layers that were opened and are in no chain.
   */
  readChains(): Promise<ReadonlyMap<string, readonly string[]>>;
  /** Opens empty layers ahead of {@link switchLayers}, while the VM runs. */
  openLayers(layers: readonly string[]): Promise<void>;
  /**
   * Sends the writes of each disk to an opened layer instead of its top, for all disks or none. The VM of a capture is
   * paused. The layers below change by a merge alone.
   */
  switchLayers(switches: readonly LayerSwitch[]): Promise<void>;
  /**
   * Copies into `into` what the layers between it and `base` hold, while the guest runs, and closes those layers. An
   * abort ends the copying; what was copied does no harm. No layer may be opened or switched until this settles.
   * @throws `unavailable` when the hypervisor fails or, after an abort, does not confirm the end
   */
  merge(merge: LayerMerge, signal: AbortSignal): Promise<void>;
  /** The layer that a merge copies into: the one that takes writes, or the one below it. */
  readonly mergesInto: "top" | "below top";
  /** Writes the state of the devices, without memory and disks, to `file` in the VM's directory. The VM must be paused. */
  saveDevices(file: string): Promise<void>;
  /** Whether {@link saveDevices} changes the guest's memory, which is then copied afterwards. */
  readonly savingChangesMemory: boolean;
}

/** A disk's top layer and the opened, empty layer that comes over it. */
export interface LayerSwitch {
  readonly disk: string;
  readonly top: string;
  readonly next: string;
}

export interface LayerMerge {
  readonly disk: string;
  /** The layer named by {@link Capturing.mergesInto}. */
  readonly into: string;
  /** The highest layer that stays below the merged ones; absent: the disk's raw image. */
  readonly base?: string | undefined;
}

export interface VmExit {
  /**
   * `shutdown`: the guest powered off. `panicked`: it reset or panicked. `killed`: the VM was disposed. `died`: the
   * process ended by itself or by a signal.
   */
  readonly reason: "shutdown" | "panicked" | "killed" | "died";
  /** Further facts, for people; may be empty. */
  readonly detail: string;
}

/** Everything that a VM is made of. A restore needs the same devices in the same order. */
export interface VmSpec {
  /** The machine's own directory, mode 0700, for sockets and logs. */
  readonly directory: string;
  /** The user that the process runs as; absent where this process is not root and cannot choose. */
  readonly user?: { readonly uid: number; readonly gid: number };
  /** Files of the cgroups that the process runs in; absent: those of this process. */
  readonly cgroupEntrances?: readonly string[];
  readonly vcpus: number;
  readonly memoryMib: number;
  /** How much more memory the guest can receive while it runs. Nothing is reserved for it. */
  readonly hotplugMib: number;
  /** The file that the memory starts as, of the size {@link Restoring.baseMib}. It is mapped privately and never written to. */
  readonly memoryBase: string;
  readonly kernel: string;
  readonly initramfs: string;
  readonly bootArguments: readonly string[];
  /** In the guest's order: /dev/vda, /dev/vdb, ... */
  readonly disks: readonly DiskAttachment[];
  readonly network: NetworkAttachment;
  /** A vsock device with the guest's address, which no other machine of the host has. Absent: no device. */
  readonly vsock?: { readonly cid: number };
}

export interface DiskAttachment {
  readonly name: string;
  /** A raw image, read only. */
  readonly base: string;
  /** qcow2 overlays, the lowest first; the last one takes writes. An empty list makes the disk read only. */
  readonly layers: readonly string[];
}

/** Every guest sees the same network: 10.0.2.15/24, gateway 10.0.2.2, name server 10.0.2.3. */
export type NetworkAttachment =
  | { readonly kind: "none" }
  /** The hypervisor's own network stack. */
  | { readonly kind: "user" }
  /** A TAP device, by its name and opened in this process, and the network namespace of the hypervisor process. */
  | { readonly kind: "tap"; readonly namespace: string; readonly device: string; openTap(): number };

/** Sockets that a hypervisor creates in a machine's directory. They must not exist when it starts. */
export const socketFiles = ["qmp.sock", "agent.sock", "firecracker.sock", "storage.sock"] as const;
