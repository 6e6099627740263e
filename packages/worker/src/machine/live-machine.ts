import type { Cgroup } from "#host/cgroups/cgroups.ts";
import type { GuestClient } from "#guest/guest-client.ts";
import type { Vm, VmSpec } from "#hypervisor/hypervisor.ts";
import type { SandboxNetwork } from "#network/sandbox-network.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { GuestShape } from "#snapshots/manifest.ts";
import { BackgroundTask } from "./background-task.ts";
import type { HostResources } from "./host-resources.ts";
import type { JournaledMachine } from "./journal.ts";
import type { LayerStack } from "./layer-stack.ts";
import { UseMeter } from "./limits/use-meter.ts";
import type { MachineDirectory, MachineRequest } from "./machine-request.ts";

/** The parts of a machine that has a process. They change when it boots again on its disks. */
export interface RunningParts {
  readonly shape: MachineRequest["shape"];
  readonly layers: LayerStack;
  readonly resources: HostResources;
  readonly spec: VmSpec;
  readonly vm: Vm;
  readonly guest: GuestClient;
  /** What the guest has since its boot, or had when it was captured. Undefined: unknown. */
  readonly guestShape: GuestShape | undefined;
}

export interface GuestLimits {
  readonly memoryMib?: number | undefined;
  /** In percent of one processor. */
  readonly cpuPercent?: number | undefined;
  readonly maxPids?: number | undefined;
}

/** A VM with its disks, host resources and guest. It runs, is paused, or has ended and left its disks. */
export class LiveMachine implements AsyncDisposable {
  readonly id: string;
  readonly image: string;
  /** The shape that the machine last booted with. */
  shape: MachineRequest["shape"];
  /** Limits of the guest's commands, where they are below what the machine has. */
  limits: GuestLimits = {};
  /** What the guest has confirmed last; undefined: unknown. */
  guestShape: GuestShape | undefined;
  readonly networkEnabled: boolean;
  /** The group of the machine's organization; undefined while it belongs to no sandbox. */
  tenantGroup: number | undefined;
  readonly directory: MachineDirectory;
  layers: LayerStack;
  /** The merge of its disk layers, in the background. */
  readonly merging = new BackgroundTask();
  /** What its processes have used. */
  readonly use = new UseMeter();
  #running: RunningParts | undefined;
  #disposing: Promise<void> | undefined;

  /** Without `running`: a machine that has ended, with the layers of its disks. */
  constructor(
    request: MachineRequest & { readonly directory: MachineDirectory },
    parts: RunningParts | { readonly layers: LayerStack },
  ) {
    this.id = request.id;
    this.image = request.image;
    this.shape = request.shape;
    this.networkEnabled = request.networkEnabled;
    this.tenantGroup = request.tenantGroup;
    this.directory = request.directory;
    this.layers = parts.layers;
    if ("vm" in parts) this.start(parts);
  }

  get spec(): VmSpec {
    return this.#parts.spec;
  }

  get vm(): Vm {
    return this.#parts.vm;
  }

  get guest(): GuestClient {
    return this.#parts.guest;
  }

  /** Whether the machine has a process, in any state. */
  get hasProcess(): boolean {
    return this.#running !== undefined;
  }

  /** Undefined where this host has no cgroups for machines, or without a process. */
  get cgroup(): Cgroup | undefined {
    return this.#running?.resources.cgroup;
  }

  /** The network that enforces its policy; undefined where policies are not enforced, or without a process. */
  get sandboxNetwork(): SandboxNetwork | undefined {
    return this.#running?.resources.sandboxNetwork;
  }

  /** The part of its journal entry that another worker adopts it by. */
  journaled(): JournaledMachine {
    const { spec: fullSpec, resources } = this.#parts;
    const { network, hotplugMib, cgroupEntrances: _, ...spec } = fullSpec;
    return {
      ...(resources.slot === undefined ? {} : { slot: resources.slot }),
      spec: { ...spec, growthMib: hotplugMib },
      network: network.kind,
      image: this.image,
      files: this.layers.files,
      nextLayer: this.layers.next,
    };
  }

  /** Takes the process that now runs on its disks. The machine had none, or had stopped. */
  start(parts: RunningParts): void {
    this.shape = parts.shape;
    this.layers = parts.layers;
    this.guestShape = parts.guestShape;
    this.#running = parts;
    const { cgroup, sandboxNetwork: network } = parts.resources;
    this.use.start({ machineId: this.id, pid: parts.vm.pid, cgroup, network });
    // An ended guest answers no call, although its process may stay so that its console can be read.
    void parts.vm.exited.then(() => parts.guest[Symbol.dispose]());
  }

  /** Ends the process and releases its host resources; the disks stay. */
  async stop(): Promise<void> {
    await this.merging.stop();
    const running = this.#running;
    this.#running = undefined;
    running?.guest[Symbol.dispose]();
    this.use.beforeEnd();
    await running?.vm[Symbol.asyncDispose]();
    await this.use.end();
    await running?.resources[Symbol.asyncDispose]();
  }

  /** Disconnects from the machine and leaves it running, for another worker to adopt. */
  async release(): Promise<void> {
    await this.merging.stop();
    this.#running?.guest[Symbol.dispose]();
    this.#running?.vm.release();
    await this.sandboxNetwork?.release();
    this.#disposing = Promise.resolve();
  }

  /** Ends the process and removes the disks. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposing ??= this.#dispose();
    await this.#disposing;
  }

  async #dispose(): Promise<void> {
    await this.stop();
    await this.directory[Symbol.asyncDispose]();
  }

  get #parts(): RunningParts {
    if (this.#running !== undefined) return this.#running;
    throw new SandboxError("unavailable", "the sandbox's machine has ended: power-cycle it to boot its disks");
  }
}
