import { type ChildProcess, spawn } from "node:child_process";
import { constants, createWriteStream } from "node:fs";
import { copyFile, mkdir, readFile, realpath, rm } from "node:fs/promises";
import { once } from "node:events";
import { join } from "node:path";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { type Kit, share } from "./kit.ts";
import type { Mapping, MemoryMover } from "./memory-mover.ts";
import { listenForQmp, type Qmp } from "./qmp.ts";
import { RawAgent } from "./raw-agent.ts";
import { RawPort } from "./raw-port.ts";
import { Stopwatch } from "../stopwatch.ts";

/** The files of a raw capture: enough to restore it. */
export interface RawSnapshot {
  readonly directory: string;
  readonly devices: string;
  readonly delta: string;
  /** Complete layers over those of the kit, by the name of the kit's layer below them. */
  readonly layers: Readonly<Record<string, readonly string[]>>;
  readonly changedBytes: number;
}

/** The parts of an operation, in milliseconds. */
export type Parts = Readonly<Record<string, number>>;

/**
 * One QEMU, driven by its monitor alone. It takes the steps of a base-and-delta snapshot and nothing else: no journal,
 * user, namespace or checksum. Disposing it kills QEMU and removes its directory.
 */
export class RawMachine implements AsyncDisposable {
  readonly directory: string;
  readonly #kit: Kit;
  readonly #process: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #from: RawSnapshot | undefined;
  /** The chain of layers over each layer of the kit, by that layer's name. The last one receives the writes. */
  readonly #chains: Record<string, string[]>;
  #qmp: Qmp | undefined;
  #agent: RawAgent | undefined;

  private constructor(kit: Kit, directory: string, process: ChildProcess, from: RawSnapshot | undefined) {
    this.#kit = kit;
    this.directory = directory;
    this.#process = process;
    this.#exited = once(process, "exit");
    this.#from = from;
    this.#chains = chainsOf(kit, from);
  }

  /** A process that waits for the state of the template or of a snapshot. */
  static async prepare(kit: Kit, directory: string, from?: RawSnapshot): Promise<RawMachine> {
    await mkdir(directory, { recursive: true, mode: 0o711 });
    for (const name of kit.shared) await share(join(kit.directory, name), join(directory, name));
    const chains = chainsOf(kit, from);
    for (const [layer, chain] of Object.entries(chains)) {
      for (const name of chain.slice(0, -1)) await share(join(from?.directory ?? "", name), join(directory, name));
      await newLayer(kit, layer, join(directory, chain.at(-1)!));
    }
    using listener = await listenForQmp(join(directory, "qmp.sock"));
    const [program = "", ...args] = commandLine(kit, chains, directory);
    const log = createWriteStream(join(directory, "qemu.log"));
    await once(log, "open");
    const process = spawn(program, args, { stdio: ["ignore", log, log] });
    const machine = new RawMachine(kit, directory, process, from);
    const ended = machine.#exited.then(async () => {
      throw new Error(`the raw QEMU has ended: ${await readFile(join(directory, "qemu.log"), "utf8")}`);
    });
    ended.catch(() => undefined);
    try {
      const qmp = await Promise.race([listener.connected, ended]);
      machine.#qmp = qmp;
      machine.#agent = await RawAgent.connect(machine.agentSocket);
      const capabilities = ["events", "x-ignore-shared"].map((capability) => ({ capability, state: true }));
      await qmp.execute("migrate-set-capabilities", { capabilities });
      return machine;
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Prepares, restores and resumes a machine, and waits for its first answer. */
  static async restored(
    kit: Kit,
    directory: string,
    mover: MemoryMover,
    from?: RawSnapshot,
  ): Promise<[RawMachine, Parts]> {
    const watch = new Stopwatch();
    const machine = await RawMachine.prepare(kit, directory, from);
    watch.lap("process");
    try {
      const parts = await machine.restore(mover);
      return [machine, { ...watch.laps, ...parts }];
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** From the prepared process to the first round trip. */
  async restore(mover: MemoryMover): Promise<Parts> {
    const watch = new Stopwatch();
    const from = this.#from;
    if (from !== undefined) {
      await mover.apply(await this.memory(), from.delta);
      watch.lap("memory");
    }
    const completed = this.qmp.event((event, data) => event === "MIGRATION" && data["status"] === "completed");
    await this.qmp.execute("migrate-incoming", {
      uri: `file:${from?.devices ?? join(this.directory, this.#kit.devices)}`,
    });
    await completed;
    watch.lap("devices");
    await this.resume();
    // The disks were quiesced when the capture was made.
    await this.agent.call(methods.thaw, {});
    watch.lap("round trip");
    return watch.laps;
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  get agent(): RawAgent {
    if (this.#agent === undefined) throw new Error("the raw machine is not connected");
    return this.#agent;
  }

  /** Closes the agent channel, so that another program can open it. */
  hangUp(): void {
    this.#agent?.[Symbol.dispose]();
  }

  async callAgain(): Promise<void> {
    this.#agent = await RawAgent.connect(this.agentSocket);
    await this.agent.ping();
  }

  /** Boots a machine with room for one more port. A template's machine has none. */
  static async booted(kit: Kit, directory: string): Promise<RawMachine> {
    const argv = kit.argv
      .filter((argument, index) => argument !== "-incoming" && kit.argv[index - 1] !== "-incoming")
      .map((argument) => argument.replace("max_ports=2", "max_ports=3"));
    const machine = await RawMachine.prepare({ ...kit, argv }, directory);
    try {
      await machine.resume();
      await machine.agent.ping();
      return machine;
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Hotplugs one more virtio-serial port. The guest may open it later. */
  async addPort(name: string): Promise<RawPort> {
    const path = await this.#addSocket(name);
    const port = await RawPort.connect(name, path);
    await this.#plug(name);
    return port;
  }

  /** Hotplugs a port that another program of the host is to open. Returns the path of its socket. */
  async addOpenPort(name: string): Promise<string> {
    const path = await this.#addSocket(name);
    await this.#plug(name);
    return path;
  }

  async #addSocket(name: string): Promise<string> {
    const path = join(this.directory, `${name}.sock`);
    const address = { type: "unix", data: { path } };
    const backend = { type: "socket", data: { addr: address, server: true, wait: false } };
    await this.qmp.execute("chardev-add", { id: name, backend });
    return path;
  }

  async #plug(name: string): Promise<void> {
    await this.qmp.execute("device_add", { driver: "virtserialport", id: `port-${name}`, chardev: name, name });
  }

  get agentSocket(): string {
    return join(this.directory, "agent.sock");
  }

  get qmp(): Qmp {
    if (this.#qmp === undefined) throw new Error("the raw machine is not connected");
    return this.#qmp;
  }

  async pause(): Promise<void> {
    await this.qmp.execute("stop");
  }

  async resume(): Promise<void> {
    await this.qmp.execute("cont");
  }

  /** The address range of the guest's memory within the process. */
  async memory(): Promise<Mapping> {
    const file = await realpath(join(this.directory, this.#kit.memoryBase));
    const lines = (await readFile(`/proc/${this.pid}/maps`, "utf8"))
      .split("\n")
      .filter((line) => line.endsWith(` ${file}`));
    const ends = lines.flatMap((line) => line.slice(0, line.indexOf(" ")).split("-"));
    return { pid: this.pid, start: Number.parseInt(ends[0] ?? "", 16), end: Number.parseInt(ends.at(-1) ?? "", 16) };
  }

  /** Captures the machine and resumes it, with new layers over its disks. */
  async checkpoint(directory: string, mover: MemoryMover): Promise<[RawSnapshot, Parts]> {
    const watch = new Stopwatch();
    await mkdir(directory, { recursive: true });
    const complete = structuredClone(this.#chains);
    const opened: { readonly layer: string; readonly node: string; readonly file: string; readonly overlay: string }[] =
      [];
    for (const [layer, chain] of Object.entries(this.#chains)) {
      const file = layerAfter(chain.at(-1)!);
      await newLayer(this.#kit, layer, join(this.directory, file));
      const node = blockdevOf(file, this.directory, true);
      await this.qmp.execute("blockdev-add", { ...node, backing: null });
      opened.push({ layer, node: nodeOf(chain.at(-1)!), file, overlay: nodeOf(file) });
    }
    const memory = await this.memory();
    watch.lap("layers");
    await this.agent.call(methods.freeze, {});
    watch.lap("freeze");

    await this.pause();
    const actions = opened.map(({ node, overlay }) => ({ type: "blockdev-snapshot", data: { node, overlay } }));
    await this.qmp.execute("transaction", { actions });
    const devices = join(directory, "devices");
    const delta = join(directory, "memory.delta");
    const taken = mover.capture(memory, delta);
    await Promise.all([taken.copied, this.#saveDevices(devices)]);
    await this.resume();
    watch.lap("pause");
    await this.agent.call(methods.thaw, {});
    watch.lap("thaw");

    for (const { layer, file } of opened) this.#chains[layer]!.push(file);
    const changedBytes = await taken.stored;
    watch.lap("store");
    for (const name of Object.values(complete).flat()) await share(join(this.directory, name), join(directory, name));
    return [{ directory, devices, delta, layers: complete, changedBytes }, watch.laps];
  }

  /** Captures the machine and ends it. */
  async hibernate(directory: string, mover: MemoryMover): Promise<[RawSnapshot, Parts]> {
    const watch = new Stopwatch();
    await mkdir(directory, { recursive: true });
    const memory = await this.memory();
    await this.agent.call(methods.freeze, {});
    watch.lap("freeze");
    await this.pause();
    const devices = join(directory, "devices");
    const delta = join(directory, "memory.delta");
    const taken = mover.capture(memory, delta);
    await Promise.all([taken.copied, this.#saveDevices(devices)]);
    watch.lap("take");
    const changedBytes = await taken.stored;
    watch.lap("store");
    // QEMU flushed the disks when it stopped.
    for (const name of Object.values(this.#chains).flat())
      await share(join(this.directory, name), join(directory, name));
    await this[Symbol.asyncDispose]();
    watch.lap("end");
    return [{ directory, devices, delta, layers: structuredClone(this.#chains), changedBytes }, watch.laps];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#agent?.[Symbol.dispose]();
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      this.#process.kill("SIGKILL");
      await this.#exited;
    }
    await rm(this.directory, { recursive: true, force: true });
  }

  async #saveDevices(filename: string): Promise<void> {
    await this.qmp.execute("xen-save-devices-state", { filename, live: true });
  }
}

function chainsOf(kit: Kit, from: RawSnapshot | undefined): Record<string, string[]> {
  return Object.fromEntries(
    Object.keys(kit.emptyLayers).map((layer) => {
      const complete = from?.layers[layer] ?? [];
      const top = complete.length === 0 ? layer : layerAfter(complete.at(-1)!);
      return [layer, [...complete, top]];
    }),
  );
}

function layerAfter(name: string): string {
  return name.replace(/-(\d+)\.qcow2$/, (_, number: string) => `-${Number(number) + 1}.qcow2`);
}

async function newLayer(kit: Kit, layer: string, file: string): Promise<void> {
  await copyFile(join(kit.directory, kit.emptyLayers[layer]!), file, constants.COPYFILE_FICLONE);
}

/** The kit's command line with the files of `directory`, and with the chains in place of the layers below them. */
function commandLine(kit: Kit, chains: Readonly<Record<string, readonly string[]>>, directory: string): string[] {
  return kit.argv.flatMap((argument, index) => {
    const chain = Object.entries(chains).find(([layer]) => argument.includes(`"node-name":"${nodeOf(layer)}"`))?.[1];
    if (kit.argv[index - 1] === "-blockdev" && chain !== undefined) {
      const { backing } = JSON.parse(argument) as { readonly backing: string };
      const nodes = chain.map((file, at) => ({
        ...blockdevOf(file, directory, at === chain.length - 1),
        backing: at === 0 ? backing : nodeOf(chain[at - 1]!),
      }));
      return nodes.flatMap((node, at) => [...(at === 0 ? [] : ["-blockdev"]), JSON.stringify(node)]);
    }
    const driven = Object.entries(chains).find(([layer]) => argument.includes(`drive=${nodeOf(layer)},`));
    const own = driven === undefined ? argument : argument.replace(nodeOf(driven[0]), nodeOf(driven[1].at(-1)!));
    return [own.replaceAll("{dir}", directory)];
  });
}

function nodeOf(file: string): string {
  return file.replace(/\.qcow2$/, "");
}

function blockdevOf(file: string, directory: string, writable: boolean) {
  const filename = join(directory, file);
  return {
    driver: "qcow2",
    "node-name": nodeOf(file),
    "read-only": !writable,
    ...(writable ? { discard: "unmap" } : {}),
    file: { driver: "file", filename, ...(writable ? { discard: "unmap" } : { "read-only": true }) },
  };
}
