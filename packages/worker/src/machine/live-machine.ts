import type { GuestClient } from "#guest/guest-client.ts";
import type { Vm, VmSpec } from "#hypervisor/hypervisor.ts";
import type { SandboxNetwork } from "#network/sandbox-network.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { JournaledMachine } from "./journal.ts";
import type { LayerStack } from "./layer-stack.ts";
import type { HostResources } from "./host-resources.ts";
import type { MachineDirectory, MachineRequest } from "./start-machine.ts";

/** What changes when a machine is booted again on its disks. */
export interface RunningParts {
  readonly shape: MachineRequest["shape"];
  readonly layers: LayerStack;
  readonly spec: VmSpec;
  readonly vm: Vm;
  readonly guest: GuestClient;
}

/** A machine with all that was made for it: it runs, waits to be let run, or has ended and left its disks. */
export class LiveMachine implements AsyncDisposable {
  readonly id: string;
  readonly image: string;
  /** What it began with, the last time that it booted. */
  shape: MachineRequest["shape"];
  readonly networkEnabled: boolean;
  /** Whose it is; undefined while it waits for a sandbox. */
  organizationId: string | undefined;
  readonly directory: MachineDirectory;
  layers: LayerStack;
  /** What makes long chains of layers short again, beside all else. */
  readonly merging = new Merging();
  #resources: HostResources | undefined;
  #running: RunningParts | undefined;
  #disposing: Promise<void> | undefined;

  constructor(
    parts: MachineRequest & RunningParts & { readonly directory: MachineDirectory; readonly resources?: HostResources },
  ) {
    this.id = parts.id;
    this.image = parts.image;
    this.shape = parts.shape;
    this.networkEnabled = parts.networkEnabled;
    this.organizationId = parts.organizationId;
    this.directory = parts.directory;
    this.layers = parts.layers;
    this.#resources = parts.resources;
    const { shape, layers, spec, vm, guest } = parts;
    if (vm !== undefined) this.start({ shape, layers, spec, vm, guest });
  }

  /** One without a process. */
  static ended(
    parts: MachineRequest & { readonly directory: MachineDirectory; readonly layers: LayerStack },
  ): LiveMachine {
    return new LiveMachine(parts as ConstructorParameters<typeof LiveMachine>[0]);
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

  /** Whether there is a process, in whatever state. */
  get hasProcess(): boolean {
    return this.#running !== undefined;
  }

  /** What its packets are held to; undefined where they are not, or without a process. */
  get sandboxNetwork(): SandboxNetwork | undefined {
    return this.#resources?.sandboxNetwork;
  }

  /** What another process needs to go on with it. */
  journaled(): JournaledMachine {
    const { network, hotplugMib, ...spec } = this.spec;
    return {
      ...(this.#resources?.slot === undefined ? {} : { slot: this.#resources.slot }),
      spec: { ...spec, growthMib: hotplugMib },
      network: network.kind,
      image: this.image,
      files: this.layers.files,
      nextLayer: this.layers.next,
    };
  }

  /** Ends the process and gives its resources back; the disks stay. */
  async stop(): Promise<void> {
    await this.merging.stop();
    const running = this.#running;
    this.#running = undefined;
    running?.guest[Symbol.dispose]();
    await running?.vm[Symbol.asyncDispose]();
    const resources = this.#resources;
    this.#resources = undefined;
    await resources?.[Symbol.asyncDispose]();
  }

  holdResources(resources: HostResources): void {
    this.#resources = resources;
  }

  start(parts: RunningParts): void {
    this.shape = parts.shape;
    this.layers = parts.layers;
    this.#running = parts;
    // A guest that has ended answers nothing any more, although its process may stay for what it has written to be read.
    void parts.vm.exited.then(() => parts.guest[Symbol.dispose]());
  }

  /** Lets go of it without ending it: another process goes on with it. */
  async release(): Promise<void> {
    await this.merging.stop();
    this.#running?.guest[Symbol.dispose]();
    this.#running?.vm.release();
    this.sandboxNetwork?.release();
    this.#disposing = Promise.resolve();
  }

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
    throw new SandboxError("unavailable", "the machine has ended; it can be started again on its disks");
  }
}

/** At most one thing that goes on beside the machine's life and gives way to whatever changes that. */
class Merging {
  #present: { readonly abort: AbortController; readonly done: Promise<void> } | undefined;

  get busy(): boolean {
    return this.#present !== undefined;
  }

  start(work: (signal: AbortSignal) => Promise<void>): void {
    if (this.#present !== undefined) return;
    const abort = new AbortController();
    const done = work(abort.signal).finally(() => {
      this.#present = undefined;
    });
    this.#present = { abort, done };
    // Who stops it waits for its end and not for its success.
    done.catch(() => undefined);
  }

  async stop(): Promise<void> {
    const present = this.#present;
    present?.abort.abort(new SandboxError("canceled", "the machine is needed for something else"));
    await present?.done.catch(() => undefined);
  }
}
