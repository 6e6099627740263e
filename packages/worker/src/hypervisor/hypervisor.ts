import type { HypervisorName } from "@opensandbox/wire/worker/worker.ts";
import type { GuestMemory } from "./guest-memory.ts";

/**
 * Starts machines of one kind. A hypervisor knows nothing of sandboxes, images or the control plane: it is handed
 * files, a network device and numbers.
 */
export interface Hypervisor {
  readonly name: HypervisorName;
  readonly version: string;
  /**
   * Starts from the kernel. Resolves when the vCPUs run; the guest may still be booting. After a failure or an abort
   * no process is left.
   */
  boot(spec: VmSpec, signal: AbortSignal): Promise<Vm>;
  /** Present where machines can be captured and restored. */
  readonly restoring?: Restoring;
  /**
   * Takes a machine over that another process of ours has started from `spec` and that runs as process `pid`.
   * @throws `unavailable` when it does not answer. Absent where machines end with the process that started them.
   */
  readonly adopt?: (spec: VmSpec, pid: number, signal: AbortSignal) => Promise<Vm>;
}

export interface Restoring {
  /**
   * What a machine of `spec` is to its guest, as text: equal texts, and the memory and devices of the one can be put
   * into the other. Pure.
   */
  compatibilityOf(spec: VmSpec): string;
  /** Starts the process of a machine whose memory and devices come from a snapshot. After a failure none is left. */
  prepare(spec: VmSpec, signal: AbortSignal): Promise<PreparedVm>;
}

/** A process that waits to become a machine. Disposing it ends the process, unless it has become one. */
export interface PreparedVm extends AsyncDisposable {
  readonly pid: number;
  /** As the machine's; it may be connected to already. */
  readonly agentSocket: string;
  /** Where the guest's memory is; it holds the base until something else is written to it. `grown`: as in {@link Capturing}. */
  memory(grown: boolean): Promise<GuestMemory>;
  /** Reads the devices' state. The machine is paused then. Once. */
  restore(deviceState: string, signal: AbortSignal): Promise<Vm>;
}

/** One running machine. Disposing it kills the process and frees nothing else; doing so twice does nothing. */
export interface Vm extends AsyncDisposable {
  readonly pid: number;
  /** A unix socket that leads to the guest agent. Served from the start, whether or not the guest listens yet. */
  readonly agentSocket: string;
  /** Settles once, when the guest no longer runs, for whatever reason. Never rejects. */
  readonly exited: Promise<VmExit>;
  /** Stops the vCPUs; memory stays. Pausing a paused machine does nothing. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** The last 64 KiB of what the guest wrote to its console. */
  console(): Promise<string>;
  /** Lets go of the process without ending it, for another one of ours to adopt. */
  release(): void;
  /** Present where the machine can be captured. */
  readonly capturing?: Capturing;
  /** Present where the guest can be given more memory while it runs, and it be taken back. */
  readonly hotplug?: MemoryHotplug;
}

/** What a guest has beyond the memory that its machine began with, in MiB, up to the spec's `hotplugMib`. */
export interface MemoryHotplug {
  /** What the guest was asked to have last, also where its machine was restored since, and what it has. */
  state(): Promise<{ readonly wantedMib: number; readonly presentMib: number }>;
  /** Asks it to have so much, a multiple of 2. That it takes or gives is the guest's to do, and takes time. */
  want(mib: number): Promise<void>;
}

/** The parts of capturing a machine, in the order in which they are asked. */
export interface Capturing {
  /** `grown`: with what the guest may have beyond its first memory, which is otherwise not looked at. */
  memory(grown: boolean): Promise<GuestMemory>;
  /**
   * The layers that each disk has, by their files' names, the lowest first and the one that is written to last: asked of
   * the machine when another process has changed them or a change was not answered. Undefined: they are as they are
   * known. What was left half done is undone.
   */
  reviewLayers(): Promise<ReadonlyMap<string, readonly string[]> | undefined>;
  /** Opens the empty layers that are to come over the disks: whatever can be done while the machine still runs. */
  openLayers(layers: readonly NewLayer[]): Promise<void>;
  /** Closes layers that were opened and not switched to. */
  dropLayers(): Promise<void>;
  /** The machine must be paused. Writes go to the opened layers from now on; all below them is complete, for ever. */
  switchLayers(): Promise<void>;
  /**
   * Copies into the layer that a disk is written to what the layers below it hold, down to `over`, or to the base when
   * that is absent: none of those is read any more then. It goes on beside the guest; an abort ends it, and what was
   * copied does no harm. No layers may be opened or switched meanwhile.
   */
  mergeLayers(disk: string, over: string | undefined, signal: AbortSignal): Promise<void>;
  /** The machine must be paused. Writes the state of its devices, without memory and disks, to a new file. */
  saveDevices(file: string): Promise<void>;
}

export interface NewLayer {
  /** The name of the disk. */
  readonly disk: string;
  readonly file: string;
}

export interface VmExit {
  /** `shutdown`: the guest powered off; `panicked`: it reset or panicked; `killed`: disposed; `died`: the process ended. */
  readonly reason: "shutdown" | "panicked" | "killed" | "died";
  /** What is known beside it, for people. */
  readonly detail: string;
}

/** All that a machine is made of. Restoring needs the same again, device for device. */
export interface VmSpec {
  /** The machine's own directory, mode 0700: sockets and logs go here. */
  readonly directory: string;
  /** Whom the process runs as; absent where this process is not root and cannot choose. */
  readonly user?: { readonly uid: number; readonly gid: number };
  readonly vcpus: number;
  readonly memoryMib: number;
  /** How much more the guest may be given while it runs; nothing is taken for it before. */
  readonly hotplugMib: number;
  /** The file of `memoryMib` MiB that the memory begins as. It is mapped privately and never written to. */
  readonly memoryBase: string;
  readonly kernel: string;
  readonly initramfs: string;
  readonly bootArguments: readonly string[];
  /** In the guest's order: /dev/vda, /dev/vdb, ... */
  readonly disks: readonly DiskAttachment[];
  readonly network: NetworkAttachment;
}

export interface DiskAttachment {
  readonly name: string;
  /** A raw image, read only. */
  readonly base: string;
  /** qcow2 overlays over it, each over the one before; the last one is written to. None: the disk is read only. */
  readonly layers: readonly string[];
}

/** The guest's side is the same for all: 10.0.2.15/24, gateway 10.0.2.2, name server 10.0.2.3. */
export type NetworkAttachment =
  | { readonly kind: "none" }
  /** The hypervisor's own network stack. */
  | { readonly kind: "user" }
  /** A TAP device, open in this process, and the namespace that the machine's process lives in. */
  | { readonly kind: "tap"; readonly namespace: string; openTap(): number };

/** What a hypervisor makes in a machine's directory and must not find there when it starts. */
export const socketFiles = ["qmp.sock", "agent.sock"] as const;
