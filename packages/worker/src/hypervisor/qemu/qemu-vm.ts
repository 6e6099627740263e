import { type AgentTransport, virtioSerialTransport } from "#host/agent-transport.ts";
import { vsockTransport } from "#host/vsock-transport.ts";
import type { MemoryRegion } from "../guest-memory.ts";
import { exitOfProcess } from "../process-log.ts";
import type { Capturing, MemoryHotplug, Vm, VmExit, VmSpec } from "../hypervisor.ts";
import type { VmProcess } from "../vm-process.ts";
import { consoleBytes } from "./command-line.ts";
import { pathOf } from "./paths.ts";
import { QemuCapturing } from "./qemu-capturing.ts";
import { blockResize } from "../qmp/block-commands.ts";
import { layerNode } from "../qmp/disk-nodes.ts";
import { memoryFinder, memoryHotplug } from "./qemu-memory.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";
import * as commands from "./qmp-commands.ts";

/** How often a VM that waits for free space on the host's disk retries its write. */
const fullDiskRetryMs = 2_000;

interface QemuVmParts {
  readonly spec: VmSpec;
  readonly process: VmProcess;
  readonly qmp: QmpClient;
  readonly firstMemory: MemoryRegion;
  /** How the guest ended before this process connected; absent while it runs. */
  readonly ended?: VmExit | undefined;
}

/** A QEMU process and the connection to its monitor. */
export class QemuVm implements Vm {
  readonly pid: number;
  readonly agentTransport: AgentTransport;
  readonly exited: Promise<VmExit>;
  readonly capturing: Capturing;
  readonly hotplug?: MemoryHotplug;
  readonly #process: VmProcess;
  readonly #qmp: QmpClient;
  #console = "";
  #disposed = false;
  #retrying = false;
  /** Whether the caller has paused it; QEMU also stops a VM whose disk is full. */
  #paused = false;

  constructor({ spec, process, qmp, firstMemory, ended }: QemuVmParts) {
    this.pid = process.pid;
    const agent = pathOf(spec.directory, "agent");
    this.agentTransport =
      spec.vsock === undefined ? virtioSerialTransport(agent) : vsockTransport(spec.vsock.cid, agent);
    this.#process = process;
    this.#qmp = qmp;
    const died = process.exited.then(async (exit): Promise<VmExit> => {
      if (this.#disposed) return { reason: "killed", detail: "" };
      return await exitOfProcess("QEMU", exit, pathOf(spec.directory, "log"));
    });
    this.exited = ended === undefined ? Promise.race([guestEnd(qmp), died]) : Promise.resolve(ended);
    qmp.listen(({ event, data }) => {
      // The host's disk is full: QEMU has stopped the guest, and repeats the failed write when it continues.
      if (event !== "BLOCK_IO_ERROR" || data?.["action"] !== "stop") return;
      // One retry serves all failed writes.
      if (this.#retrying) return;
      this.#retrying = true;
      setTimeout(() => this.#retryWrite(), fullDiskRetryMs).unref();
    });
    this.capturing = new QemuCapturing(spec, qmp, memoryFinder(process.pid, spec, qmp, firstMemory));
    if (spec.hotplugMib > 0) this.hotplug = memoryHotplug(qmp);
  }

  async pause(): Promise<void> {
    this.#paused = true;
    await commands.stop(this.#qmp);
  }

  async resume(): Promise<void> {
    this.#paused = false;
    await commands.cont(this.#qmp);
  }

  readonly enlargeDisk = async (top: string, bytes: number): Promise<void> => {
    await blockResize(this.#qmp, { node: layerNode(top), bytes });
  };

  release(): void {
    this.#qmp[Symbol.dispose]();
  }

  async console(): Promise<string> {
    const fresh = await commands.readRing(this.#qmp, "console", consoleBytes);
    this.#console = (this.#console + fresh).slice(-consoleBytes);
    return this.#console;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    await this.#process[Symbol.asyncDispose]();
    this.#qmp[Symbol.dispose]();
  }

  #retryWrite(): void {
    this.#retrying = false;
    if (this.#paused) return;
    // A VM that has ended meanwhile has reported that; a silent one fails its next command.
    commands.cont(this.#qmp).catch(() => undefined);
  }
}

/** Settles when QEMU reports that the guest has ended. */
async function guestEnd(qmp: QmpClient): Promise<VmExit> {
  const { promise, resolve } = Promise.withResolvers<VmExit>();
  qmp.listen(({ event, data }) => {
    if (event !== "SHUTDOWN") return;
    // `reason` is one of QEMU's ShutdownCause; the kernel's panic=-1 turns a panic into a reset.
    const reason = String(data?.["reason"]);
    const panicked = reason === "guest-reset" || reason === "guest-panic";
    resolve({ reason: panicked ? "panicked" : "shutdown", detail: reason });
  });
  return await promise;
}
