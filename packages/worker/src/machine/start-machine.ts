import { chown, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { failpoint } from "#host/failpoints.ts";
import { killProcessesOf } from "#host/kill-by-path.ts";
import { GuestClient } from "#guest/guest-client.ts";
import { type VmSpec, socketFiles } from "#hypervisor/hypervisor.ts";
import { allFiles, type MachineFiles, type MemoryFiles, type Shape } from "#snapshots/manifest.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { bootArguments } from "./boot-arguments.ts";
import { readChains } from "./capture-machine.ts";
import type { BootFiles, Host } from "./host.ts";
import { maxHotplugMib } from "./hotplug.ts";
import { type JournaledMachine, machineDirectory, removeEntry } from "./journal.ts";
import { LayerStack } from "./layer-stack.ts";
import { LiveMachine } from "./live-machine.ts";
import {
  imageFiles,
  linkFiles,
  linkImage,
  type Owner,
  provideZeroMemory,
  type Reader,
  withZeroMemory,
} from "./machine-files.ts";
import { acquireHostResources, adoptHostResources, type HostResources } from "./host-resources.ts";
import type { Spans } from "./spans.ts";

/** What a machine is made for. */
export interface MachineRequest {
  readonly id: string;
  readonly image: string;
  readonly shape: Shape;
  readonly networkEnabled: boolean;
  /** Whose private files it may read; undefined: nobody's. */
  readonly organizationId: string | undefined;
  /** What is private of another organization is copied for this one. */
  readonly fromPublic?: boolean;
}

export function newMachineId(): string {
  return `m-${randomHex(4)}`;
}

/** What no caller waits for, such as a guest that breaks the protocol, is logged with its machine. */
async function connectGuest(agentSocket: string, machine: string, host: Host): Promise<GuestClient> {
  return await GuestClient.connect(agentSocket, {
    report: (message, error) => host.log("warn", message, { machine, ...describeError(error) }),
  });
}

/** A machine that starts from the kernel: of an image, or of the disks of a snapshot. It runs, and is not ready yet. */
export async function bootMachine(
  request: MachineRequest,
  source: BootFiles | StoredSnapshot | undefined,
  host: Host,
  spans: Spans,
  signal: AbortSignal,
): Promise<LiveMachine> {
  await using undo = new AsyncDisposableStack();
  // It is in the journal already, and leaves it with its directory: whatever ends this early comes after.
  const directory = undo.use(await makeDirectory(request.id, host));
  signal.throwIfAborted();
  await failpoint("acquire host resources");
  const resources = undo.use(await acquireHostResources({ ...request, directory: directory.path }, host));
  spans.end("network");
  await failpoint("fill directory");
  const zero = await provideZeroMemory(host.dataDirectory, request.shape.memoryMib);
  const layers = await fillDirectory(directory.path, { ...request, user: resources.user }, source, zero);
  spans.end("disks");
  const spec = specOf(request.shape, directory.path, layers, resources);
  await failpoint("start process");
  const vm = undo.use(await host.hypervisor.boot(spec, signal));
  const guest = undo.use(await connectGuest(vm.agentSocket, request.id, host));
  spans.end("machine");
  undo.move();
  return new LiveMachine({ ...request, directory, resources, layers, spec, vm, guest });
}

/**
 * A machine with memory, devices and disks of a snapshot, paused. @throws `incompatible`: this host cannot use its
 * memory, or, with `damaged` in the message, its files are not what was captured and nothing may be made of it.
 */
export async function restoreMachine(
  request: MachineRequest,
  snapshot: StoredSnapshot,
  host: Host,
  spans: Spans,
  signal: AbortSignal,
): Promise<LiveMachine> {
  const { restoring } = host.hypervisor;
  const { memory } = snapshot.manifest;
  if (restoring === undefined || memory === undefined) throw new Error("there is no memory to restore");
  await using undo = new AsyncDisposableStack();
  // What costs most and needs no process: begun first.
  const delta =
    memory.delta === undefined
      ? undefined
      : host.memory.load(
          join(snapshot.directory, memory.delta.file),
          memory.delta.sha256,
          bytesOf(request.shape, memory),
        );
  undo.defer(async () => (await delta?.catch(() => undefined))?.[Symbol.dispose]());
  delta?.catch(() => undefined);

  const directory = undo.use(await makeDirectory(request.id, host));
  signal.throwIfAborted();
  await failpoint("acquire host resources");
  const resources = undo.use(await acquireHostResources({ ...request, directory: directory.path }, host));
  spans.end("network");
  await failpoint("fill directory");
  const layers = await fillDirectory(directory.path, { ...request, user: resources.user }, snapshot, undefined);
  spans.end("disks");
  const spec = specOf(request.shape, directory.path, layers, resources);
  if (restoring.compatibilityOf(spec) !== memory.compatibility) {
    throw new SandboxError("incompatible", "its memory is that of another kind of machine or another QEMU", {
      reason: "machine",
    });
  }
  await failpoint("start process");
  const prepared = undo.use(await restoring.prepare(spec, signal));
  const guest = undo.use(await connectGuest(prepared.agentSocket, request.id, host));
  spans.end("process");
  await failpoint("load memory");
  await (await delta)?.apply(await prepared.memory(memory.growthMib !== undefined));
  spans.end("memory");
  await failpoint("restore devices");
  const vm = undo.use(await prepared.restore(join(directory.path, memory.devices.file), signal));
  spans.end("devices");
  undo.move();
  return new LiveMachine({ ...request, directory, resources, layers, spec, vm, guest });
}

/** What the pages of a delta are counted in. */
function bytesOf({ memoryMib }: Shape, { growthMib }: MemoryFiles): number {
  return (memoryMib + (growthMib === undefined ? 0 : maxHotplugMib(memoryMib))) * 2 ** 20;
}

/** The machine that process `pid` runs, which another worker has started. */
export async function adoptMachine(
  request: MachineRequest,
  journaled: JournaledMachine,
  pid: number,
  host: Host,
): Promise<LiveMachine> {
  const { adopt } = host.hypervisor;
  if (adopt === undefined) {
    throw new SandboxError("not_supported", `machines of ${host.hypervisor.name} end with their worker`);
  }
  await using undo = new AsyncDisposableStack();
  const directory = directoryOf(request.id, host);
  const { slot, network, files, nextLayer } = journaled;
  const resources = undo.use(await adoptHostResources(directory.path, slot, network, request.organizationId, host));
  const layers = new LayerStack(files, nextLayer, resources.user);
  const { memoryBase, growthMib: hotplugMib } = journaled.spec;
  const spec = { ...specOf(request.shape, directory.path, layers, resources), memoryBase, hotplugMib };
  const signal = AbortSignal.timeout(adoptTimeoutMs);
  // Its resources is another's only when it is gone.
  undo.defer(() => killProcessesOf(directory.path));
  const vm = await adopt(spec, pid, signal);
  const guest = undo.use(await connectGuest(vm.agentSocket, request.id, host));
  const live = new LiveMachine({ ...request, directory, resources, layers, spec, vm, guest });
  await readChains(live);
  undo.move();
  return live;
}

/** A QEMU that does not answer its monitor for so long does not work any more. */
const adoptTimeoutMs = 30_000;

/**
 * Boots a machine anew on the disks that it has, whether its process still runs or not. It runs, and is not ready yet;
 * it begins with all the memory that it is to have.
 */
export async function bootAgain(live: LiveMachine, memoryMib: number, host: Host, signal: AbortSignal): Promise<void> {
  const { id, networkEnabled, organizationId } = live;
  const shape = { ...live.shape, memoryMib };
  await live.stop();
  const path = live.directory.path;
  await live.layers.recover(path);
  for (const socket of socketFiles) await rm(join(path, socket), { force: true });
  const resources = await acquireHostResources({ directory: path, networkEnabled, organizationId }, host);
  live.holdResources(resources);
  const zero = await provideZeroMemory(host.dataDirectory, shape.memoryMib);
  const layers = new LayerStack(await withZeroMemory(live.layers.files, zero, path), live.layers.next, resources.user);
  // Layers that a capture has not come to are still the user's of the machine that wrote them.
  const given = [...layers.unhashed, ...layers.tops];
  await give([path, ...given.map((file) => join(path, file))], resources.user);
  const spec = specOf(shape, path, layers, resources);
  const vm = await host.hypervisor.boot(spec, signal);
  live.start({ shape, layers, spec, vm, guest: await connectGuest(vm.agentSocket, id, host) });
  host.log("info", "a machine was booted again on its disks", { machine: id });
}

/** The disks of a machine that has ended: {@link bootAgain} starts one on them. */
export function endedMachine(request: MachineRequest, { files, nextLayer }: JournaledMachine, host: Host): LiveMachine {
  const directory = directoryOf(request.id, host);
  return LiveMachine.ended({ ...request, directory, layers: new LayerStack(files, nextLayer, undefined) });
}

/** A machine's own directory. Disposing it removes it, and at the very end the machine from the journal. */
export interface MachineDirectory extends AsyncDisposable {
  readonly path: string;
}

async function makeDirectory(id: string, host: Host): Promise<MachineDirectory> {
  const directory = directoryOf(id, host);
  await using undo = new AsyncDisposableStack();
  undo.use(directory);
  await failpoint("make directory");
  // Passable but not readable: a machine's user reaches its own directory in it and no other.
  await mkdir(join(directory.path, ".."), { recursive: true, mode: 0o711 });
  await mkdir(directory.path, { mode: 0o700 });
  undo.move();
  return directory;
}

function directoryOf(id: string, { dataDirectory }: Host): MachineDirectory {
  const path = machineDirectory(dataDirectory, id);
  return {
    path,
    async [Symbol.asyncDispose]() {
      await failpoint("remove directory");
      await rm(path, { recursive: true, force: true });
      // The entry last: until here a crash of this process leads to the same removal again.
      await failpoint("remove journal entry");
      await removeEntry(dataDirectory, id);
    },
  };
}

/** Links what the machine is made of into its directory and makes the layers that it writes to. */
async function fillDirectory(
  directory: string,
  reader: Reader,
  source: BootFiles | StoredSnapshot | undefined,
  zeroMemory: string | undefined,
): Promise<LayerStack> {
  const { user } = reader;
  await give([directory], user);
  if (source === undefined) return new LayerStack({ ...imageFiles, disks: [] }, 1, user);
  const files = await linkSource(directory, source, reader);
  const begun = zeroMemory === undefined ? files : await withZeroMemory(files, zeroMemory, directory);
  return await LayerStack.create(begun, directory, user);
}

async function linkSource(
  directory: string,
  source: BootFiles | StoredSnapshot,
  reader: Reader,
): Promise<MachineFiles> {
  if ("manifest" in source) {
    const { files, memory } = source.manifest;
    const devices = memory === undefined ? [] : [memory.devices.file];
    await linkFiles([...allFiles(files), ...devices], source.directory, directory, reader);
    return files;
  }
  return await linkImage(source, directory);
}

async function give(paths: readonly string[], user: Owner | undefined): Promise<void> {
  if (user === undefined) return;
  for (const path of paths) await chown(path, user.uid, user.gid);
}

function specOf(shape: Shape, directory: string, layers: LayerStack, { user, network }: HostResources): VmSpec {
  const { kernel, initramfs, memoryBase } = layers.files;
  return {
    directory,
    ...(user === undefined ? {} : { user }),
    vcpus: shape.vcpus,
    memoryMib: shape.memoryMib,
    hotplugMib: maxHotplugMib(shape.memoryMib),
    memoryBase: join(directory, memoryBase),
    kernel: join(directory, kernel),
    initramfs: join(directory, initramfs),
    bootArguments,
    disks: layers.attachments(directory),
    network,
  };
}
