import type { HypervisorName } from "@opensandbox/wire/worker/worker.ts";

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
  boot(spec: MachineSpec, signal: AbortSignal): Promise<Machine>;
}

/** One running machine. Disposing it kills the process and frees nothing else; doing so twice does nothing. */
export interface Machine extends AsyncDisposable {
  readonly pid: number;
  /** A unix socket that leads to the guest agent. Served from the start, whether or not the guest listens yet. */
  readonly agentSocket: string;
  /** Settles once, when the guest no longer runs, for whatever reason. Never rejects. */
  readonly exited: Promise<MachineExit>;
  /** Stops the vCPUs; memory stays. Pausing a paused machine does nothing. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** The last 64 KiB of what the guest wrote to its console. */
  console(): Promise<string>;
}

export interface MachineExit {
  /** `shutdown`: the guest powered off; `panicked`: it reset or panicked; `killed`: disposed; `died`: the process ended. */
  readonly reason: "shutdown" | "panicked" | "killed" | "died";
  /** What is known beside it, for people. */
  readonly detail: string;
}

/** All that a machine is made of. Restoring needs the same again, device for device. */
export interface MachineSpec {
  /** The machine's own directory, mode 0700: sockets and logs go here. */
  readonly directory: string;
  /** Whom the process runs as; absent where this process is not root and cannot choose. */
  readonly user?: { readonly uid: number; readonly gid: number };
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly kernel: string;
  readonly initramfs: string;
  readonly bootArguments: readonly string[];
  /** In the guest's order: /dev/vda, /dev/vdb, ... */
  readonly disks: readonly DiskAttachment[];
  readonly network: NetworkAttachment;
}

export type DiskAttachment =
  | { readonly name: string; readonly format: "raw"; readonly file: string; readonly readOnly: true }
  | {
      readonly name: string;
      readonly format: "qcow2";
      readonly file: string;
      readonly readOnly: false;
      /** The raw image below the overlay. */
      readonly base: string;
    };

/** The guest's side is the same for all: 10.0.2.15/24, gateway 10.0.2.2, name server 10.0.2.3. */
export type NetworkAttachment =
  | { readonly kind: "none" }
  /** The hypervisor's own network stack. */
  | { readonly kind: "user" }
  /** A TAP device, open in this process, and the namespace that the machine's process lives in. */
  | { readonly kind: "tap"; readonly namespace: string; openTap(): number };
