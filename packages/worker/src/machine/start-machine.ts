import { chown, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { AgentTransport } from "#host/agent-transport.ts";
import { failpoint } from "#host/failpoints.ts";
import { killMachineProcesses } from "#host/kill-by-path.ts";
import { GuestClient } from "#guest/guest-client.ts";
import { type Hypervisor, type Restoring, type VmSpec, socketFiles } from "#hypervisor/hypervisor.ts";
import {
  allFiles,
  type GuestShape,
  machineMemoryMibOf,
  type MachineFiles,
  type MemoryFiles,
  type Shape,
} from "#snapshots/manifest.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { bootArguments } from "./boot-arguments.ts";
import { readChains } from "./capture-machine.ts";
import type { BootFiles, Host } from "./host.ts";
import { maxHotplugMib, memoryBaseMib, memoryMibOf as currentMemoryMib } from "./shape/hotplug.ts";
import { bootsOnOneProcessor } from "./shape/template-shape.ts";
import { limitMemoryOf, machineLimits, memoryLimitBytes } from "./limits/machine-limits.ts";
import { type JournaledMachine, machineDirectory, removeEntry, startMark } from "./journal.ts";
import { LayerStack, withDiskBytes } from "./layer-stack.ts";
import { LiveMachine } from "./live-machine.ts";
import {
  giveDirectory,
  imageFiles,
  linkFiles,
  linkImage,
  type Owner,
  provideZeroMemory,
  type Reader,
  withZeroMemory,
} from "./machine-files.ts";
import type { MachineDirectory, MachineRequest } from "./machine-request.ts";
import { acquireHostResources, adoptCgroup, adoptHostResources, cidOf, type HostResources } from "./host-resources.ts";
import type { Spans } from "./spans.ts";

export function newMachineId(): string {
  return `m-${randomHex(4)}`;
}

/** Connects to the guest agent. Failures that no caller waits for, such as a broken protocol, are logged. */
async function connectGuest(transport: AgentTransport, machine: string, host: Host): Promise<GuestClient> {
  return await GuestClient.connect(transport, {
    report: (message, error) => host.log("warn", message, { machine, ...describeError(error) }),
  });
}

/** Boots a machine from an image or from the disks of a snapshot. Its vCPUs run; its agent may not answer yet. */
export async function bootMachine(
  request: MachineRequest,
  source: BootFiles | StoredSnapshot | undefined,
  host: Host,
  spans: Spans,
  signal: AbortSignal,
): Promise<LiveMachine> {
  await using undo = new AsyncDisposableStack();
  // The journal names the machine already. Disposing the directory also removes the journal entry, so it comes first.
  const directory = undo.use(await makeDirectory(request.id, host));
  signal.throwIfAborted();
  await failpoint("acquire host resources");
  const resources = undo.use(await acquireFor(request, directory, request.shape.memoryMib, host));
  spans.end("network");
  await failpoint("fill directory");
  const zero = await provideZeroMemory(host.dataDirectory, memoryBaseMib(request.shape.memoryMib, host.hypervisor));
  const { workspaceMib } = request.shape;
  const layers = await fillDirectory(
    directory.path,
    { ...request, workspaceMib, user: resources.user },
    source,
    zero,
    host.hypervisor,
  );
  spans.end("disks");
  const spec = {
    ...specOf(request.shape, directory.path, layers, resources, host.hypervisor.restoring),
    ...newVsock(resources, host),
  };
  await failpoint("start process");
  const vm = undo.use(await host.hypervisor.boot(spec, signal));
  const guest = undo.use(await connectGuest(vm.agentTransport, request.id, host));
  spans.end("machine");
  undo.move();
  const { shape } = request;
  const parts = { shape, layers, resources, spec, vm, guest, guestShape: bootedGuestShape(shape, host) };
  return new LiveMachine({ ...request, directory }, parts);
}

/** The shape of a guest that has just booted. Its commands have no limits but the agent's own. */
function bootedGuestShape({ vcpus }: Shape, { hypervisor }: Host): GuestShape {
  const processors = bootsOnOneProcessor(vcpus, hypervisor.restoring) ? 1 : vcpus;
  return { processors, memoryMib: 0, cpuPercent: 0, maxPids: 0 };
}

/**
 * Restores a machine from memory, devices and disks of a snapshot. It is paused when this resolves.
 * @throws `incompatible` with the reason `machine` when this host cannot use the memory, `damaged` when a file is not
 * what was captured
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
  if (restoring === undefined || memory === undefined)
    throw new Error(`snapshot ${snapshot.manifest.id} has no memory to restore`);
  await using undo = new AsyncDisposableStack();
  // The longest step needs no process, so it starts first.
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
  const resources = undo.use(await acquireFor(request, directory, machineMemoryMibOf(snapshot.manifest), host));
  spans.end("network");
  await failpoint("fill directory");
  const { workspaceMib } = request.shape;
  const reader = { ...request, workspaceMib, user: resources.user };
  const layers = await fillDirectory(directory.path, reader, snapshot, undefined, host.hypervisor);
  spans.end("disks");
  const plainSpec = specOf(request.shape, directory.path, layers, resources, host.hypervisor.restoring);
  const hadVsock = requireCompatible(plainSpec, memory, restoring) === "with vsock";
  // The device of the snapshot, with this machine's address. A host without such devices leaves it out.
  const vsock = hadVsock ? newVsock(resources, host) : {};
  const spec = { ...plainSpec, ...vsock };
  const omitVsock = hadVsock && vsock.vsock === undefined;
  await failpoint("start process");
  const prepared = undo.use(await restoring.prepare(spec, signal));
  spans.end("process");
  const vm = undo.use(
    await prepared.restore(
      {
        deviceState: join(directory.path, memory.devices.file),
        hotplugged: memory.growthMib !== undefined,
        omitVsock,
        async fillMemory(guestMemory) {
          await failpoint("load memory");
          await (await delta)?.apply(guestMemory);
          spans.end("memory");
          await failpoint("restore devices");
        },
      },
      signal,
    ),
  );
  spans.end("devices");
  const guest = undo.use(await connectGuest(vm.agentTransport, request.id, host));
  undo.move();
  const parts = { shape: request.shape, layers, resources, spec, vm, guest, guestShape: memory.guest };
  return new LiveMachine({ ...request, directory }, parts);
}

/**
 * Whether the captured machine was `spec` with a vsock device or without one.
 * @throws `incompatible` when it was another machine
 */
export function requireCompatible(
  spec: VmSpec,
  { compatibility }: MemoryFiles,
  restoring: Restoring,
): "with vsock" | "without vsock" {
  const offered = restoring.compatibilityOf(spec);
  if (offered === compatibility) return "without vsock";
  // Compatibility does not depend on the device's address.
  if (restoring.compatibilityOf({ ...spec, vsock: { cid: 0 } }) === compatibility) return "with vsock";
  const difference = restoring.describeDifference(compatibility, offered);
  throw new SandboxError("incompatible", `This host cannot restore the snapshot's memory: ${difference}`, {
    reason: "machine",
  });
}

/** Size of the memory that a delta describes. */
function bytesOf({ memoryMib }: Shape, { growthMib }: MemoryFiles): number {
  return (memoryMib + (growthMib === undefined ? 0 : maxHotplugMib(memoryMib))) * 2 ** 20;
}

/** Adopts the machine that the processes `pids` run, which another worker started. */
export async function adoptMachine(
  request: MachineRequest,
  journaled: JournaledMachine,
  pids: readonly number[],
  host: Host,
): Promise<LiveMachine> {
  const { adopt } = host.hypervisor;
  if (adopt === undefined) {
    throw new SandboxError(
      "not_supported",
      `machines of the hypervisor ${host.hypervisor.name} end with their worker and cannot be adopted`,
    );
  }
  await using undo = new AsyncDisposableStack();
  const directory = directoryOf(request.id, host);
  const { slot, network, files, nextLayer } = journaled;
  const { memoryBase, growthMib: hotplugMib, vsock } = journaled.spec;
  const resources = undo.use(await adoptHostResources(directory.path, slot, network, request.tenantGroup, host));
  const layers = new LayerStack(files, nextLayer, resources.user);
  const spec = {
    ...specOf(request.shape, directory.path, layers, resources, host.hypervisor.restoring),
    ...{ memoryBase, hotplugMib },
    ...(vsock === undefined ? {} : { vsock }),
  };
  const signal = AbortSignal.timeout(adoptTimeoutMs);
  // The process ends first: another machine may get the resources afterwards.
  undo.defer(() => killMachineProcesses(directory.path));
  const vm = await adopt(spec, pids, signal);
  const guest = undo.use(await connectGuest(vm.agentTransport, request.id, host));
  const { shape } = request;
  const limited = await adoptCgroup(
    resources,
    { machineId: request.id, pid: vm.pid, limits: machineLimits(shape) },
    host,
  );
  const parts = { shape, layers, resources: limited, spec, vm, guest, guestShape: undefined };
  const live = new LiveMachine({ ...request, directory }, parts);
  await readChains(live);
  await limitMemoryOf(live, await currentMemoryMib(live), host);
  undo.move();
  return live;
}

/** A process that does not answer for this long has stopped working. */
const adoptTimeoutMs = 30_000;

/**
 * Ends a machine's process, if it has one, and boots a new one on its disks with `memoryMib` of memory. Its vCPUs run
 * when this resolves; its agent may not answer yet.
 */
export async function bootAgain(live: LiveMachine, memoryMib: number, host: Host, signal: AbortSignal): Promise<void> {
  const { id, networkEnabled, tenantGroup } = live;
  const shape = { ...live.shape, memoryMib };
  await live.stop();
  const path = live.directory.path;
  await live.layers.recover(path);
  for (const socket of socketFiles) await rm(join(path, socket), { force: true });
  await using undo = new AsyncDisposableStack();
  const resources = undo.use(
    await acquireFor({ id, shape, networkEnabled, tenantGroup }, live.directory, memoryMib, host),
  );
  const zero = await provideZeroMemory(host.dataDirectory, memoryBaseMib(shape.memoryMib, host.hypervisor));
  const layers = new LayerStack(await withZeroMemory(live.layers.files, zero, path), live.layers.next, resources.user);
  // The tops, and layers that an interrupted capture left unsealed, still belong to the user of the earlier process.
  const owned = [...layers.unhashed, ...layers.tops];
  await giveDirectory(path, resources.user, host.hypervisor);
  await give(
    owned.map((file) => join(path, file)),
    resources.user,
  );
  const spec = { ...specOf(shape, path, layers, resources, host.hypervisor.restoring), ...newVsock(resources, host) };
  const vm = undo.use(await host.hypervisor.boot(spec, signal));
  const guest = await connectGuest(vm.agentTransport, id, host);
  undo.move();
  live.start({ shape, layers, resources, spec, vm, guest, guestShape: bootedGuestShape(shape, host) });
  host.log("info", "machine booted again on its disks", { machine: id });
}

/** A machine without a process, on the disks that it left. {@link bootAgain} starts one. */
export function endedMachine(request: MachineRequest, { files, nextLayer }: JournaledMachine, host: Host): LiveMachine {
  const directory = directoryOf(request.id, host);
  return new LiveMachine({ ...request, directory }, { layers: new LayerStack(files, nextLayer, undefined) });
}

type Acquiring = Pick<MachineRequest, "id" | "shape" | "networkEnabled" | "tenantGroup">;

async function acquireFor(
  request: Acquiring,
  directory: MachineDirectory,
  memoryMib: number,
  host: Host,
): Promise<HostResources> {
  const { id: machineId, networkEnabled, tenantGroup } = request;
  const memoryBytes = memoryLimitBytes(memoryMib, host.description.accelerator.name);
  const limits = { ...machineLimits(request.shape), memoryBytes };
  return await acquireHostResources(
    { machineId, directory: directory.path, limits, networkEnabled, tenantGroup },
    host,
  );
}

async function makeDirectory(id: string, host: Host): Promise<MachineDirectory> {
  const directory = directoryOf(id, host);
  await using undo = new AsyncDisposableStack();
  undo.use(directory);
  await failpoint("make directory");
  // Passable but not readable: a machine's user reaches its own directory and no other.
  await mkdir(join(directory.path, ".."), { recursive: true, mode: 0o711 });
  await mkdir(directory.path, { mode: 0o700 });
  await writeFile(startMark(host.dataDirectory, id), "");
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
      // The entry goes last: until then the next worker repeats the removal.
      await failpoint("remove journal entry");
      await removeEntry(dataDirectory, id);
    },
  };
}

/** Links the machine's files into its directory and makes the top layers of its disks. A workspace never shrinks. */
async function fillDirectory(
  directory: string,
  reader: Reader & Pick<Shape, "workspaceMib">,
  source: BootFiles | StoredSnapshot | undefined,
  zeroMemory: string | undefined,
  hypervisor: Hypervisor,
): Promise<LayerStack> {
  const { user } = reader;
  await giveDirectory(directory, user, hypervisor);
  if (source === undefined) return new LayerStack({ ...imageFiles, disks: [] }, 1, user);
  const linked = await linkSource(directory, source, reader);
  const bytes = reader.workspaceMib * 2 ** 20;
  const files = await withDiskBytes(linked, "workspace", bytes, directory);
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

/** A vsock device with the address of the machine's slot, where this host's machines have one. */
function newVsock({ slot }: HostResources, { agentTransport }: Host): Pick<VmSpec, "vsock"> {
  return agentTransport === "vsock" && slot !== undefined ? { vsock: { cid: cidOf(slot) } } : {};
}

export function specOf(
  shape: Shape,
  directory: string,
  layers: Pick<LayerStack, "files" | "attachments">,
  resources: Pick<HostResources, "user" | "network" | "cgroup">,
  restoring: Restoring | undefined,
): VmSpec {
  const { user, network, cgroup } = resources;
  const { kernel, initramfs, memoryBase } = layers.files;
  return {
    directory,
    ...(user === undefined ? {} : { user }),
    ...(cgroup === undefined ? {} : { cgroupEntrances: cgroup.entrances }),
    vcpus: shape.vcpus,
    memoryMib: shape.memoryMib,
    hotplugMib: maxHotplugMib(shape.memoryMib),
    memoryBase: join(directory, memoryBase),
    kernel: join(directory, kernel),
    initramfs: join(directory, initramfs),
    bootArguments: bootArguments(shape.vcpus, restoring),
    disks: layers.attachments(directory),
    network,
  };
}
