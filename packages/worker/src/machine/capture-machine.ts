import { rm } from "node:fs/promises";
import { join } from "node:path";
import { failpoint } from "#host/failpoints.ts";
import type { GuestMemory } from "#hypervisor/guest-memory.ts";
import type { Capturing, Vm } from "#hypervisor/hypervisor.ts";
import { allFiles, type MachineFiles, type MemoryFiles, type StoredFile } from "#snapshots/manifest.ts";
import type { CaptureTurn } from "#snapshots/memory-threads.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Host } from "./host.ts";
import type { LiveMachine } from "./live-machine.ts";
import { linkFiles, makeOwned, type Owner, seal } from "./machine-files.ts";

/** Deadline of a freeze. Writing back a gigabyte of dirty pages takes seconds. */
const freezeTimeoutMs = 60_000;

/** A guest thaws by itself after 30 s: a freeze requested longer ago than this may be over. */
const freshFreezeMs = 25_000;
const freezeAttempts = 3;

/** Deadline of a thaw. A guest that does not confirm it thaws by its own deadline. */
const thawTimeoutMs = 30_000;

/** Deadline of the thaw after a failed capture, which is the only step that the caller still waits for. */
const undoThawTimeoutMs = 5_000;

export interface MachineCapture {
  /** Files in the snapshot's directory; all of them exist. */
  readonly files: MachineFiles;
  readonly memory: MemoryFiles | undefined;
  /** Bytes that the snapshot shares with nothing else. */
  readonly ownBytes: number;
  readonly pausedMs: number;
}

export interface CaptureRequest {
  /** The directory that the snapshot's files go to. */
  readonly directory: string;
  readonly contents: "memory and disks" | "disks";
  /** Whether the machine runs or is still paused when the capture has succeeded. */
  readonly afterwards: "resumed" | "paused";
  /** The tenant whose machines may read the files; undefined: all machines may. */
  readonly tenant: Owner | undefined;
}

/**
 * Captures memory, devices and disks at one instant, into the files of a snapshot. The guest confirms that its disks
 * are frozen before the machine pauses. The pause covers only what must be taken at once; the rest is written after the
 * machine resumes. After a failure the machine runs and its disks are thawed.
 */
export async function captureMachine(
  live: LiveMachine,
  request: CaptureRequest,
  host: Host,
  signal: AbortSignal,
): Promise<MachineCapture> {
  const { layers } = live;
  const capturing = capturingOf(live.vm, host);
  await live.merging.stop();
  using turn = await host.memory.captureTurn();
  await using undo = new AsyncDisposableStack();
  await readChains(live);
  await failpoint("make layers");
  const switches = await layers.makeNext(live.directory.path);
  const close = new Once(() => readChains(live));
  undo.defer(quietly("cannot close the unused layers of a machine", live, host, () => close.run()));
  await failpoint("open layers");
  await capturing.openLayers(switches.map(({ next }) => next));
  const hotplugged = request.contents === "disks" ? undefined : await hotpluggedMemory(live.vm);
  const guestMemory = await capturing.memory(hotplugged !== undefined);
  const { pausedSince, resume, thaw } = await quiesce(live, undo, host, signal);
  await failpoint("switch layers");
  await capturing.switchLayers(switches);
  layers.push();
  const taken = request.contents === "disks" ? undefined : await takeMemory(live, guestMemory, request, turn, host);
  if (request.afterwards === "resumed") {
    await failpoint("resume after capture");
    await resume.run();
    await failpoint("thaw");
    await thaw.run(thawTimeoutMs);
  }
  const pausedMs = performance.now() - pausedSince;

  await failpoint("store memory");
  const storing = taken?.stored();
  storing?.catch(() => undefined);
  const fresh = layers.unhashed;
  try {
    // The layers no longer change, so they are hashed while the memory goes to the disk.
    await failpoint("hash layers");
    for (const file of fresh) await seal(join(live.directory.path, file), request.tenant);
    await hashLayers(live, host);
  } catch (error) {
    // The snapshot's directory is removed after a failure, and must not receive files then.
    await storing?.catch(() => undefined);
    throw error;
  }
  const stored = await storing;
  await failpoint("link files");
  await linkFiles(allFiles(layers.files), live.directory.path, request.directory);
  const compatibility = host.hypervisor.restoring?.compatibilityOf(live.spec) ?? "";
  const { memoryMib: limitMib } = live.limits;
  const limited = {
    ...(limitMib === undefined ? {} : { limitMib }),
    ...(live.guestShape === undefined ? {} : { guest: live.guestShape }),
  };
  const memory = stored === undefined ? undefined : { compatibility, ...stored, ...hotplugged, ...limited };
  if (memory !== undefined) await seal(join(request.directory, memory.devices.file), request.tenant);
  close.cancel();
  // Has no effect on a machine that has resumed. The caller of a paused one ends or resumes it.
  resume.cancel();
  thaw.cancel();
  return { files: layers.files, memory, ownBytes: ownBytesOf(layers.files, fresh, memory), pausedMs };
}

/** Resumes a machine whose capture left it paused, and thaws its disks. */
export async function resumeAfterCapture(live: LiveMachine): Promise<void> {
  await live.vm.resume();
  await live.guest.thaw(AbortSignal.timeout(thawTimeoutMs));
}

/**
 * Makes the record of the machine's layers equal to what its process has open, which a capture that failed or an
 * earlier worker may have changed.
 */
export async function readChains({ vm, layers }: LiveMachine): Promise<void> {
  const chains = await vm.capturing?.readChains();
  if (chains !== undefined) layers.follow(chains);
}

function capturingOf(vm: Vm, host: Host): Capturing {
  if (vm.capturing !== undefined) return vm.capturing;
  throw new SandboxError("not_supported", `machines of the hypervisor ${host.hypervisor.name} cannot be captured`);
}

interface Quiesced {
  readonly pausedSince: number;
  readonly resume: Once<[]>;
  readonly thaw: Once<[timeoutMs: number]>;
}

/** Freezes the guest's disks and pauses the machine while they are certainly frozen. `undo` resumes and thaws. */
async function quiesce(
  live: LiveMachine,
  undo: AsyncDisposableStack,
  host: Host,
  signal: AbortSignal,
): Promise<Quiesced> {
  const { guest, vm } = live;
  for (let attempt = 1; attempt <= freezeAttempts; attempt += 1) {
    const frozenSince = performance.now();
    const thaw = new Once((timeoutMs: number) => guest.thaw(AbortSignal.timeout(timeoutMs)));
    undo.defer(quietly("cannot thaw the disks of a guest", live, host, () => thaw.run(undoThawTimeoutMs)));
    await failpoint("freeze");
    await guest.freeze(AbortSignal.any([signal, AbortSignal.timeout(freezeTimeoutMs)]));

    const pausedSince = performance.now();
    const resume = new Once(() => vm.resume());
    undo.defer(quietly("cannot resume a machine", live, host, () => resume.run()));
    await failpoint("pause");
    await vm.pause();
    if (!guest.frozen) {
      throw new SandboxError("unavailable", "the guest agent restarted while it held the disks frozen; try again");
    }
    if (performance.now() - frozenSince < freshFreezeMs) return { pausedSince, resume, thaw };
    // Most of the time went into writing dirty pages; the next attempt has fewer to write.
    await resume.run();
    await thaw.run(thawTimeoutMs);
  }
  throw new SandboxError(
    "unavailable",
    `the guest did not freeze its disks within ${freshFreezeMs / 1000} s in ${freezeAttempts} attempts; ` +
      "try again when it writes less",
  );
}

/** A step of the undo that runs at most once, early or when the stack unwinds. */
class Once<Arguments extends unknown[]> {
  #done = false;
  readonly #act: (...args: Arguments) => Promise<void>;

  constructor(act: (...args: Arguments) => Promise<void>) {
    this.#act = act;
  }

  async run(...args: Arguments): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    await this.#act(...args);
  }

  cancel(): void {
    this.#done = true;
  }
}

/** A step of the undo. Its failure is logged; the caller receives the error that the capture failed with. */
function quietly(message: string, { id }: LiveMachine, host: Host, act: () => Promise<void>): () => Promise<void> {
  return async () => {
    try {
      await act();
    } catch (error) {
      host.log("warn", message, { machine: id, ...describeError(error) });
    }
  };
}

/** Undefined when the guest has, and was asked to have, no more than the memory that it booted with. */
async function hotpluggedMemory({ hotplug }: Vm): Promise<Pick<MemoryFiles, "growthMib"> | undefined> {
  if (hotplug === undefined) return undefined;
  const { requestedMib, presentMib } = await hotplug.state();
  return requestedMib === 0 && presentMib === 0 ? undefined : { growthMib: requestedMib };
}

/** Takes memory and devices, in parallel where the hypervisor allows it. Settles when both are taken; `stored` settles when both are in their files. */
async function takeMemory(
  live: LiveMachine,
  guestMemory: GuestMemory,
  { directory, afterwards }: CaptureRequest,
  turn: CaptureTurn,
  host: Host,
) {
  const deltaFile = "memory.delta";
  // The machine's process writes it, so it starts in the machine's directory, where that process may make no file.
  const devicesFile = `devices-${live.layers.next}`;
  const written = join(live.directory.path, devicesFile);
  await rm(written, { force: true });
  if (!host.hypervisor.writesDirectory) await makeOwned(written, live.spec.user);
  const capturing = capturingOf(live.vm, host);
  const saveDevices = async (): Promise<void> => {
    await failpoint("save devices");
    await capturing.saveDevices(written);
  };
  if (capturing.savingChangesMemory) await saveDevices();
  await failpoint("copy memory");
  const file = join(directory, deltaFile);
  const memory = turn.capture({ memory: guestMemory, file, hold: afterwards === "resumed" });
  try {
    await Promise.all([memory.copied, capturing.savingChangesMemory ? undefined : saveDevices()]);
  } catch (error) {
    // The copy may create its file until it has ended.
    await memory.stored.catch(() => undefined);
    throw error;
  }
  return {
    stored: async () => {
      await linkFiles([devicesFile], live.directory.path, directory);
      await rm(written);
      const [delta, devices] = await Promise.all([memory.stored, host.memory.hash(join(directory, devicesFile))]);
      return { devices: { file: devicesFile, ...devices }, delta: { file: deltaFile, ...delta } };
    },
  };
}

async function hashLayers({ layers, directory }: LiveMachine, host: Host): Promise<void> {
  const known = await Promise.all(
    layers.unhashed.map(async (file): Promise<[string, StoredFile]> => {
      return [file, { file, ...(await host.memory.hash(join(directory.path, file))) }];
    }),
  );
  layers.describe(new Map(known));
}

function ownBytesOf(files: MachineFiles, fresh: readonly string[], memory: MemoryFiles | undefined): number {
  const own = new Set(fresh);
  const layers = files.disks.flatMap((disk) => disk.layers).filter(({ file }) => own.has(file));
  const parts = [...layers, ...(memory === undefined ? [] : [memory.devices, memory.delta])];
  return parts.reduce((sum, part) => sum + (part?.bytes ?? 0), 0);
}
