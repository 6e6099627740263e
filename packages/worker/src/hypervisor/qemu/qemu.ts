import { join } from "node:path";
import { closeSync } from "node:fs";
import { listenUnix } from "#host/libc.ts";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { findMemory, type GuestMemory, type MemoryRegion } from "../guest-memory.ts";
import type {
  Capturing,
  MemoryHotplug,
  Hypervisor,
  Vm,
  VmExit,
  VmSpec,
  NetworkAttachment,
  NewLayer,
  PreparedVm,
} from "../hypervisor.ts";
import { adoptVmProcess, startVmProcess, type VmProcess } from "../vm-process.ts";
import {
  baseNode,
  consoleBytes,
  diskDevice,
  hotplugDevice,
  guestVisible,
  inheritedDescriptors,
  isLayerOf,
  layerBlockdev,
  layerNode,
  layerNumber,
  type QemuHost,
  type QemuStart,
  qemuCommandLine,
  socketPaths,
} from "./command-line.ts";
import { acceleratorFailure, openKvm, withKvmGroup } from "./kvm-access.ts";
import { QmpClient, type QmpEvent } from "./qmp-client.ts";
import * as commands from "./qmp-commands.ts";
import { readEnd } from "./log.ts";

/** Machines of QEMU. `host` comes from {@link examineQemu}. */
export function qemuHypervisor(host: QemuHost & { readonly version: string }): Hypervisor {
  return {
    name: "qemu",
    version: host.version,
    async boot(spec, signal) {
      return (await start(spec, host, "boot", signal)).machine;
    },
    restoring: {
      compatibilityOf: (spec) => JSON.stringify([`qemu ${host.version}`, host.processor, ...guestVisible(spec, host)]),
      async prepare(spec, signal) {
        const { machine, qmp, events } = await start(spec, host, "restore", signal);
        try {
          await commands.expectDevicesState(qmp);
          return new Prepared(machine, qmp, events);
        } catch (error) {
          await machine[Symbol.asyncDispose]();
          throw error;
        }
      },
    },
    adopt: (spec, pid, signal) => adopt(spec, pid, signal),
  };
}

interface Started {
  readonly machine: QemuVm;
  readonly qmp: QmpClient;
  readonly events: QmpEvents;
}

async function start(spec: VmSpec, host: QemuHost, kind: QemuStart, signal: AbortSignal): Promise<Started> {
  signal.throwIfAborted();
  await using undo = new AsyncDisposableStack();
  const log = join(spec.directory, "qemu.log");
  const process = undo.use(await startQemu(spec, host, kind, log));
  try {
    const started = await connect(spec, process, log, undo, signal);
    undo.move();
    return started;
  } catch (error) {
    const said = await readEnd(log);
    const { code, message } = asSandboxError(error);
    if (code !== "unavailable" || said === "") throw error;
    const refused = acceleratorFailure(said, host);
    if (refused !== undefined) throw refused;
    throw new SandboxError("unavailable", `${message}: ${said}`, { cause: error });
  }
}

async function connect(
  spec: VmSpec,
  process: VmProcess,
  log: string,
  undo: AsyncDisposableStack,
  signal: AbortSignal,
): Promise<Started> {
  const events = new QmpEvents();
  const qmp = undo.use(await QmpClient.connect(socketPaths(spec.directory).qmp, (event) => events.emit(event), signal));
  // The memory is mapped before QEMU answers for the first time.
  const firstMemory = await findMemory(process.pid, spec.memoryBase, spec.memoryMib * 2 ** 20);
  return { machine: new QemuVm({ spec, process, qmp, events, log, firstMemory }), qmp, events };
}

async function adopt(spec: VmSpec, pid: number, signal: AbortSignal): Promise<Vm> {
  await using undo = new AsyncDisposableStack();
  const events = new QmpEvents();
  const qmp = undo.use(await QmpClient.connect(socketPaths(spec.directory).qmp, (event) => events.emit(event), signal));
  const process = adoptVmProcess(pid, spec.directory, qmp.closed);
  const firstMemory = await findMemory(pid, spec.memoryBase, spec.memoryMib * 2 ** 20);
  const log = join(spec.directory, "qemu.log");
  const machine = new QemuVm({ spec, process, qmp, events, log, firstMemory, adopted: true });
  const status = await commands.queryStatus(qmp);
  // The event was lost with the worker that it was meant for.
  if (status === "shutdown" || status === "guest-panicked" || status === "internal-error") {
    events.emit({ event: "SHUTDOWN", data: { reason: status === "shutdown" ? "guest-shutdown" : "guest-panic" } });
  }
  undo.move();
  return machine;
}

async function startQemu(spec: VmSpec, host: QemuHost, kind: QemuStart, log: string): Promise<VmProcess> {
  const { network } = spec;
  return await startVmProcess({
    argv: qemuCommandLine(spec, host, kind),
    logFile: log,
    cwd: spec.directory,
    env: { PATH: "/usr/bin:/bin" },
    ...(spec.user === undefined ? {} : { user: withKvmGroup(spec.user, host.kvmAccess) }),
    ...(network.kind === "tap" ? { namespace: network.namespace } : {}),
    openInherited() {
      const paths = socketPaths(spec.directory);
      const open = {
        qmp: () => listenUnix(paths.qmp),
        agent: () => listenUnix(paths.agent),
        tap: () => (network as NetworkAttachment & { kind: "tap" }).openTap(),
        kvm: openKvm,
      };
      const opened: number[] = [];
      try {
        for (const name of inheritedDescriptors(spec, host)) opened.push(open[name]());
        return opened;
      } catch (error) {
        for (const fd of opened) closeSync(fd);
        throw error;
      }
    },
  });
}

/** Hands QEMU's events to whoever listens at the moment. */
class QmpEvents {
  readonly #listeners = new Set<(event: QmpEvent) => void>();

  emit(event: QmpEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  listen(listener: (event: QmpEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }
}

class Prepared implements PreparedVm {
  readonly pid: number;
  readonly agentSocket: string;
  readonly #machine: QemuVm;
  readonly #qmp: QmpClient;
  readonly #events: QmpEvents;
  #restored = false;

  constructor(machine: QemuVm, qmp: QmpClient, events: QmpEvents) {
    this.pid = machine.pid;
    this.agentSocket = machine.agentSocket;
    this.#machine = machine;
    this.#qmp = qmp;
    this.#events = events;
  }

  async memory(grown: boolean): Promise<GuestMemory> {
    return await this.#machine.capturing.memory(grown);
  }

  async restore(deviceState: string, signal: AbortSignal): Promise<Vm> {
    const { promise: read, resolve, reject } = Promise.withResolvers<void>();
    using _ = this.#events.listen(({ event, data }) => {
      if (event !== "MIGRATION") return;
      if (data?.["status"] === "completed") resolve();
      if (data?.["status"] === "failed") reject(new SandboxError("incompatible", cannotRead, { reason: "machine" }));
    });
    const ended = this.#machine.exited.then(({ detail }) => {
      // QEMU ends when it cannot read a state, and says why on its standard error.
      throw new SandboxError("incompatible", `${cannotRead}: ${detail}`, { reason: "machine" });
    });
    const given = Promise.withResolvers<never>();
    // One that comes while nobody waits for it is no news to anyone.
    for (const end of [read, ended, given.promise]) end.catch(() => undefined);
    const onAbort = (): void => given.reject(signal.reason);
    signal.throwIfAborted();
    signal.addEventListener("abort", onAbort, { once: true });
    const silent = new SandboxError("unavailable", "QEMU does not finish reading the state of the devices");
    const timer = setTimeout(() => given.reject(silent), restoreTimeoutMs);
    try {
      await Promise.race([commands.readDevicesState(this.#qmp, deviceState), ended]);
      await Promise.race([read, ended, given.promise]);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    }
    this.#restored = true;
    return this.#machine;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#restored) await this.#machine[Symbol.asyncDispose]();
  }
}

function gone(): SandboxError {
  return new SandboxError("unavailable", "QEMU has ended");
}

/** Reading a state takes tens of milliseconds, and minutes only where it never ends. */
const restoreTimeoutMs = 60_000;

/** How often a machine that waits for room on the host's disk tries again. */
const noRoomRetryMs = 2_000;

const cannotRead = "QEMU cannot read the state of the devices";

interface QemuParts {
  readonly spec: VmSpec;
  readonly process: VmProcess;
  readonly qmp: QmpClient;
  readonly events: QmpEvents;
  readonly log: string;
  readonly firstMemory: MemoryRegion;
  /** Another process has started it, and may have died in the middle of anything. */
  readonly adopted?: boolean;
}

class QemuVm implements Vm {
  readonly pid: number;
  readonly agentSocket: string;
  readonly exited: Promise<VmExit>;
  readonly capturing: Capturing;
  readonly hotplug?: MemoryHotplug;
  readonly #process: VmProcess;
  readonly #qmp: QmpClient;
  #console = "";
  #disposed = false;
  /** By whoever has it, and not by QEMU itself. */
  #paused = false;

  constructor({ spec, process, qmp, events, log, firstMemory, adopted = false }: QemuParts) {
    this.pid = process.pid;
    this.agentSocket = socketPaths(spec.directory).agent;
    this.#process = process;
    this.#qmp = qmp;
    const died = process.exited.then(async ({ code, signal }): Promise<VmExit> => {
      if (this.#disposed) return { reason: "killed", detail: "" };
      const how = signal !== null ? `was ended by ${signal}` : code === null ? "has ended" : `exited with ${code}`;
      return { reason: "died", detail: `QEMU ${how} ${await readEnd(log)}`.trim() };
    });
    this.exited = Promise.race([guestEnd(events), died]);
    events.listen(({ event, data }) => {
      // The host's disk is full. The guest stands still then, and its write is done again when it goes on.
      if (event !== "BLOCK_IO_ERROR" || data?.["action"] !== "stop") return;
      setTimeout(() => this.#tryAgain(), noRoomRetryMs).unref();
    });
    const memory = new QemuMemory(process.pid, spec, qmp, firstMemory);
    this.capturing = new QemuCapturing(spec, qmp, events, memory, adopted);
    if (spec.hotplugMib > 0) this.hotplug = hotplug(qmp);
  }

  async pause(): Promise<void> {
    this.#paused = true;
    await commands.stop(this.#qmp);
  }

  async resume(): Promise<void> {
    this.#paused = false;
    await commands.cont(this.#qmp);
  }

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

  #tryAgain(): void {
    if (this.#paused) return;
    // One that has ended meanwhile has told so, and one that does not answer tells whoever asks it next.
    commands.cont(this.#qmp).catch(() => undefined);
  }
}

/** Learns from QEMU's events why the guest ended. */
async function guestEnd(events: QmpEvents): Promise<VmExit> {
  const { promise, resolve } = Promise.withResolvers<VmExit>();
  events.listen(({ event, data }) => {
    if (event !== "SHUTDOWN") return;
    // `reason` is one of QEMU's ShutdownCause; the kernel's panic=-1 turns a panic into a reset.
    const reason = String(data?.["reason"]);
    const panicked = reason === "guest-reset" || reason === "guest-panic";
    resolve({ reason: panicked ? "panicked" : "shutdown", detail: reason });
  });
  return await promise;
}

class QemuMemory {
  readonly #pid: number;
  readonly #spec: VmSpec;
  readonly #qmp: QmpClient;
  readonly #first: MemoryRegion;
  #growth: MemoryRegion | undefined;

  constructor(pid: number, spec: VmSpec, qmp: QmpClient, first: MemoryRegion) {
    this.#pid = pid;
    this.#spec = spec;
    this.#qmp = qmp;
    this.#first = first;
  }

  async find(grown: boolean): Promise<GuestMemory> {
    if (!grown || this.#spec.hotplugMib === 0) return { pid: this.#pid, regions: [this.#first] };
    this.#growth ??= await this.#findGrowth();
    return { pid: this.#pid, regions: [this.#first, this.#growth] };
  }

  async #findGrowth(): Promise<MemoryRegion> {
    const device = await commands.queryMemoryDevice(this.#qmp, hotplugDevice);
    return { start: await commands.hostAddress(this.#qmp, device.memaddr), bytes: device["max-size"] };
  }
}

function hotplug(qmp: QmpClient): MemoryHotplug {
  return {
    state: async () => {
      const device = await commands.queryMemoryDevice(qmp, hotplugDevice);
      return { wantedMib: device["requested-size"] / 2 ** 20, presentMib: device.size / 2 ** 20 };
    },
    want: (wanted) => commands.requestMemory(qmp, hotplugDevice, wanted * 2 ** 20),
  };
}

class QemuCapturing implements Capturing {
  readonly #memory: QemuMemory;
  readonly #qmp: QmpClient;
  readonly #events: QmpEvents;
  /** The nodes of each disk that is written to, the base first; the last one is written through. */
  readonly #chains: Map<string, string[]>;
  #opened: NewLayer[] = [];
  /** Whether QEMU may have other chains than these. */
  #unsure: boolean;

  constructor(spec: VmSpec, qmp: QmpClient, events: QmpEvents, memory: QemuMemory, unsure: boolean) {
    this.#memory = memory;
    this.#qmp = qmp;
    this.#events = events;
    this.#unsure = unsure;
    this.#chains = new Map(
      spec.disks
        .filter(({ layers }) => layers.length > 0)
        .map(({ name, layers }) => [name, [baseNode(name), ...layers.map(layerNode)]]),
    );
  }

  async memory(grown: boolean): Promise<GuestMemory> {
    return await this.#memory.find(grown);
  }

  async reviewLayers(): Promise<ReadonlyMap<string, readonly string[]> | undefined> {
    if (!this.#unsure) return undefined;
    for (const job of await commands.queryBlockJobs(this.#qmp)) await this.#endJob(job);
    const images = await commands.queryImages(this.#qmp);
    for (const [disk, chain] of this.#chains) {
      const files = images.get(`/machine/peripheral/${diskDevice(disk)}/virtio-backend`) ?? [];
      // The base is no layer.
      chain.splice(1, Infinity, ...files.slice(0, -1).toReversed().map(layerNode));
    }
    this.#opened = [];
    const used = new Set([...this.#chains.values()].flat());
    const ours = (node: string): boolean => [...this.#chains.keys()].some((disk) => isLayerOf(disk, node));
    // The newest first, since each holds the one below it.
    const unused = (await commands.queryNodes(this.#qmp)).filter((node) => ours(node) && !used.has(node));
    for (const node of unused.toSorted((a, b) => layerNumber(b) - layerNumber(a))) {
      await commands.blockdevDel(this.#qmp, node);
    }
    this.#unsure = false;
    return new Map([...this.#chains].map(([disk, [, ...layers]]) => [disk, layers.map((node) => `${node}.qcow2`)]));
  }

  async openLayers(layers: readonly NewLayer[]): Promise<void> {
    await this.#changing(async () => {
      for (const layer of layers) {
        await commands.blockdevAdd(this.#qmp, { ...layerBlockdev(layer.file, { writable: true }), backing: null });
        this.#opened.push(layer);
      }
    });
  }

  async dropLayers(): Promise<void> {
    await this.#changing(async () => {
      for (const { file } of this.#opened.splice(0)) await commands.blockdevDel(this.#qmp, layerNode(file));
    });
  }

  async switchLayers(): Promise<void> {
    const pairs = this.#opened.map(({ disk, file }) => ({
      node: this.#chain(disk).at(-1)!,
      overlay: layerNode(file),
    }));
    await this.#changing(() => commands.blockdevSnapshots(this.#qmp, pairs));
    for (const { disk, file } of this.#opened.splice(0)) this.#chain(disk).push(layerNode(file));
  }

  async mergeLayers(disk: string, over: string | undefined, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const chain = this.#chain(disk);
    const base = over === undefined ? baseNode(disk) : layerNode(over);
    const id = `merge-${disk}`;
    const ended = Promise.withResolvers<void>();
    using _ = this.#events.listen(({ event, data }) => {
      if (data?.["device"] !== id) return;
      const failed = data["error"] as string | undefined;
      if (event === "BLOCK_JOB_CANCELLED") ended.reject(signal.reason);
      if (event !== "BLOCK_JOB_COMPLETED") return;
      if (failed === undefined) ended.resolve();
      else ended.reject(new SandboxError("unavailable", `QEMU cannot merge layers: ${failed}`));
    });
    // Who cancels is told by the event, and one that has ended needs no cancelling.
    const onAbort = (): void => void commands.cancelBlockJob(this.#qmp, id).catch(() => undefined);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await this.#changing(() => commands.blockStream(this.#qmp, { id, device: chain.at(-1)!, base }));
      await Promise.race([ended.promise, this.#qmp.closed.then(() => Promise.reject(gone()))]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
    // Nothing reads them any more; from the top, since each holds the one below it.
    const unused = chain.splice(chain.indexOf(base) + 1, chain.length - chain.indexOf(base) - 2);
    await this.#changing(async () => {
      for (const node of unused.toReversed()) await commands.blockdevDel(this.#qmp, node);
    });
  }

  async saveDevices(file: string): Promise<void> {
    await commands.saveDevicesState(this.#qmp, file);
  }

  /** A change that fails may have been made all the same, when its answer did not come. */
  async #changing(change: () => Promise<void>): Promise<void> {
    try {
      await change();
    } catch (error) {
      this.#unsure = true;
      throw error;
    }
  }

  /** Ends a job that another process has begun. */
  async #endJob(id: string): Promise<void> {
    const ended = Promise.withResolvers<void>();
    using _ = this.#events.listen(({ event, data }) => {
      if (data?.["device"] === id && (event === "BLOCK_JOB_CANCELLED" || event === "BLOCK_JOB_COMPLETED")) {
        ended.resolve();
      }
    });
    // It may have ended in between.
    await commands.cancelBlockJob(this.#qmp, id).catch(() => undefined);
    if (!(await commands.queryBlockJobs(this.#qmp)).includes(id)) return;
    await Promise.race([ended.promise, this.#qmp.closed.then(() => Promise.reject(gone()))]);
  }

  #chain(disk: string): string[] {
    const chain = this.#chains.get(disk);
    if (chain === undefined) throw new SandboxError("internal", `there is no disk ${disk} to be written to`);
    return chain;
  }
}
