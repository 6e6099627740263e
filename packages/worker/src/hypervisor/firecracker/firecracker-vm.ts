import type { AgentTransport } from "#host/agent-transport.ts";
import { killMachineProcesses } from "#host/kill-by-path.ts";
import type { Capturing, MemoryHotplug, Vm, VmExit, VmSpec } from "../hypervisor.ts";
import { exitOfProcess } from "../process-log.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";
import type { VmProcess } from "../vm-process.ts";
import { firecrackerTransport } from "./agent-transport.ts";
import type { ApiClient } from "./api-client.ts";
import * as requests from "./api-requests.ts";
import type { Console } from "./console.ts";
import { FirecrackerCapturing } from "./firecracker-capturing.ts";
import { ownPathOf, pathOf } from "./paths.ts";

interface FirecrackerVmParts {
  readonly spec: VmSpec;
  readonly process: VmProcess;
  readonly api: ApiClient;
  /** The monitor of the storage daemon; absent without writable disks. */
  readonly storage: QmpClient | undefined;
  readonly console: Console;
  readonly memory: Capturing["memory"];
  readonly hotplug: MemoryHotplug | undefined;
}

/** A Firecracker process, its storage daemon, and the connections to both. */
export class FirecrackerVm implements Vm {
  readonly pid: number;
  readonly agentTransport: AgentTransport;
  readonly exited: Promise<VmExit>;
  readonly capturing: Capturing;
  readonly hotplug?: MemoryHotplug;
  readonly #parts: FirecrackerVmParts;
  #disposed = false;
  #released = false;

  constructor(parts: FirecrackerVmParts) {
    const { spec, process, api, storage, console, memory, hotplug } = parts;
    this.#parts = parts;
    this.pid = process.pid;
    this.agentTransport = firecrackerTransport(ownPathOf(spec.directory, "agent"));
    this.capturing = new FirecrackerCapturing(spec, api, storage, memory);
    if (hotplug !== undefined) this.hotplug = hotplug;
    const halted = console.halted.then((): VmExit => ({ reason: "shutdown", detail: "the guest has halted" }));
    const diskless = storage?.closed.then(() => this.#diskless());
    this.exited = Promise.race([halted, this.#processEnd(), ...(diskless === undefined ? [] : [diskless])]);
  }

  async pause(): Promise<void> {
    await requests.pause(this.#parts.api);
  }

  async resume(): Promise<void> {
    await requests.resume(this.#parts.api);
  }

  release(): void {
    this.#released = true;
    const { api, storage, console } = this.#parts;
    api[Symbol.dispose]();
    storage?.[Symbol.dispose]();
    console[Symbol.dispose]();
  }

  async console(): Promise<string> {
    return this.#parts.console.read();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    const { process, spec } = this.#parts;
    await process[Symbol.asyncDispose]();
    // The storage daemon outlives Firecracker.
    await killMachineProcesses(spec.directory);
    this.release();
  }

  async #processEnd(): Promise<VmExit> {
    const { process, spec } = this.#parts;
    const exit = await process.exited;
    if (this.#disposed) return { reason: "killed", detail: "" };
    // The kernel's panic=-1 turns a panic into a reset, and a reset ends Firecracker.
    if (exit.code === 0) return { reason: "panicked", detail: "guest-reset" };
    return await exitOfProcess("Firecracker", exit, pathOf(spec.directory, "log"));
  }

  /** Without its disks a guest only fails; Firecracker is ended. */
  async #diskless(): Promise<VmExit> {
    // Here the connection to the daemon was closed by this process.
    if (this.#disposed || this.#released) return await this.#processEnd();
    await this.#parts.process[Symbol.asyncDispose]();
    return { reason: "died", detail: "the storage daemon of its disks has ended" };
  }
}
