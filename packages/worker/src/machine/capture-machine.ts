import { rm } from "node:fs/promises";
import { join } from "node:path";
import { failpoint } from "#host/failpoints.ts";
import type { GuestMemory } from "#hypervisor/guest-memory.ts";
import { allFiles, type MemoryFiles, type MachineFiles, type StoredFile } from "#snapshots/manifest.ts";
import type { CaptureTurn } from "#snapshots/memory-threads.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Host } from "./host.ts";
import type { LiveMachine } from "./live-machine.ts";
import { linkFiles, type Owner, seal } from "./machine-files.ts";

/** How long the guest has to bring its disks to rest. A gigabyte that is still to be written takes seconds. */
const freezeTimeoutMs = 60_000;

/** A guest thaws by itself after 30 s: one that was told to freeze longer ago than this may have done so. */
const freshFreezeMs = 25_000;
const freezeAttempts = 3;

/** A thaw that does not come back leaves the guest to its own deadline. */
const thawTimeoutMs = 30_000;

/** The same for a capture that has failed already: its caller waits for nothing else. */
const undoThawTimeoutMs = 5_000;

export interface MachineCapture {
  /** Of the snapshot's directory, all of it there now. */
  readonly files: MachineFiles;
  readonly memory: MemoryFiles | undefined;
  readonly ownBytes: number;
  readonly pausedMs: number;
}

export interface CaptureRequest {
  /** Where the snapshot's files go; they are to be published by the caller. */
  readonly directory: string;
  readonly contents: "memory and disks" | "disks";
  /** `go on`: the machine runs again when this settles. `stay`: it is paused when this resolves. */
  readonly afterwards: "go on" | "stay";
  /** Whose machines may use the files; undefined: all machines. */
  readonly tenant: Owner | undefined;
}

/**
 * Memory, devices and disks of one instant, into the files of a snapshot. The guest confirms that nothing is being
 * written before the machine is paused, and the machine stands still only for what must be taken at once: the rest is
 * written after it goes on. Whatever fails, the machine goes on with its disks thawed.
 */
export async function captureMachine(
  live: LiveMachine,
  request: CaptureRequest,
  host: Host,
  signal: AbortSignal,
): Promise<MachineCapture> {
  const { vm, layers } = live;
  const { capturing } = vm;
  if (capturing === undefined) {
    throw new SandboxError("not_supported", `${host.hypervisor.name} machines cannot be captured`);
  }
  await live.merging.stop();
  using turn = await host.memory.captureTurn();
  await using undo = new AsyncDisposableStack();
  await reviewLayers(live);
  await failpoint("make layers");
  const made = await layers.make(live.directory.path);
  // Nothing to drop once they are in use.
  undo.defer(quietly("empty layers could not be dropped", live, host, () => capturing.dropLayers()));
  await failpoint("open layers");
  await capturing.openLayers(made);
  const grown = request.contents === "disks" ? undefined : await hotplugOf(vm);
  const memoryOfGuest = await capturing.memory(grown !== undefined);
  const { pausedSince, resume, thaw } = await quiesce(live, undo, host, signal);
  await failpoint("switch layers");
  await capturing.switchLayers();
  layers.push();
  const taken =
    request.contents === "disks" ? undefined : await takeMemory(live, memoryOfGuest, request.directory, turn, host);
  if (request.afterwards === "go on") {
    await failpoint("go on");
    await resume.run();
    await failpoint("thaw");
    await thaw.run(thawTimeoutMs);
  }
  const pausedMs = performance.now() - pausedSince;

  await failpoint("store memory");
  const stored = await taken?.stored();
  await failpoint("hash layers");
  const fresh = layers.unhashed;
  for (const file of fresh) await seal(join(live.directory.path, file), request.tenant);
  await hashLayers(live, host);
  await failpoint("link files");
  await linkFiles(allFiles(layers.files), live.directory.path, request.directory);
  const compatibility = host.hypervisor.restoring?.compatibilityOf(live.spec) ?? "";
  const memory = stored === undefined ? undefined : { compatibility, ...stored, ...grown };
  if (memory !== undefined) await seal(join(request.directory, memory.devices.file), request.tenant);
  if (request.afterwards === "stay") {
    // The caller ends the machine, or resumes and thaws it.
    resume.cancel();
    thaw.cancel();
  }
  return { files: layers.files, memory, ownBytes: ownBytesOf(layers.files, fresh, memory), pausedMs };
}

/** Lets a machine go on that was captured to stay. */
export async function resumeAfterCapture(live: LiveMachine): Promise<void> {
  await live.vm.resume();
  await live.guest.goOn(AbortSignal.timeout(thawTimeoutMs));
}

/** Makes what is known of the machine's layers true, where that is in doubt. */
export async function reviewLayers({ vm, layers }: LiveMachine): Promise<void> {
  const reviewed = await vm.capturing?.reviewLayers();
  if (reviewed !== undefined) layers.follow(reviewed);
}

interface Still {
  readonly pausedSince: number;
  readonly resume: Once<[]>;
  readonly thaw: Once<[timeoutMs: number]>;
}

/** Freezes the guest's disks and pauses the machine while they are certainly frozen. `undo` lets it go on. */
async function quiesce(live: LiveMachine, undo: AsyncDisposableStack, host: Host, signal: AbortSignal): Promise<Still> {
  const { guest, vm } = live;
  for (let attempt = 1; attempt <= freezeAttempts; attempt += 1) {
    const frozenSince = performance.now();
    const thaw = new Once((timeoutMs: number) => guest.goOn(AbortSignal.timeout(timeoutMs)));
    undo.defer(quietly("a guest could not be thawed", live, host, () => thaw.run(undoThawTimeoutMs)));
    await failpoint("freeze");
    await guest.freeze(AbortSignal.any([signal, AbortSignal.timeout(freezeTimeoutMs)]));

    const pausedSince = performance.now();
    const resume = new Once(() => vm.resume());
    undo.defer(quietly("a machine could not be resumed", live, host, () => resume.run()));
    await failpoint("pause");
    await vm.pause();
    if (!guest.frozen) throw notStill("the guest's agent was started again while its disks were held still");
    if (performance.now() - frozenSince < freshFreezeMs) return { pausedSince, resume, thaw };
    // What took so long was writing, most likely, and there is less to be written the next time.
    await resume.run();
    await thaw.run(thawTimeoutMs);
  }
  throw notStill("the guest took too long to hold its disks still");
}

function notStill(message: string): SandboxError {
  return new SandboxError("unavailable", message);
}

/** What is done once, early or by unwinding. */
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

/** A step of unwinding: that it fails is worth a line, and why the capture failed is what the caller is told. */
function quietly(message: string, { id }: LiveMachine, host: Host, act: () => Promise<void>): () => Promise<void> {
  return async () => {
    try {
      await act();
    } catch (error) {
      host.log("warn", message, { machine: id, ...describeError(error) });
    }
  };
}

/** Undefined: the guest has no more than its machine began with, and wants no more. */
async function hotplugOf({ hotplug }: LiveMachine["vm"]): Promise<Pick<MemoryFiles, "growthMib"> | undefined> {
  if (hotplug === undefined) return undefined;
  const { wantedMib, presentMib } = await hotplug.state();
  return wantedMib === 0 && presentMib === 0 ? undefined : { growthMib: wantedMib };
}

/** Both at the same time; settles when both are taken, and `stored` when they are on the disk. */
async function takeMemory(
  live: LiveMachine,
  guestMemory: GuestMemory,
  directory: string,
  turn: CaptureTurn,
  host: Host,
) {
  const { capturing } = live.vm;
  if (capturing === undefined) throw new Error("the machine cannot be captured");
  const deltaFile = "memory.delta";
  // The machine's process writes it, so it begins in the machine's directory.
  const devicesFile = `devices-${live.layers.next}`;
  const written = join(live.directory.path, devicesFile);
  await rm(written, { force: true });
  await failpoint("copy memory");
  const memory = turn.capture(guestMemory, join(directory, deltaFile));
  try {
    await failpoint("save devices");
    await Promise.all([memory.copied, capturing.saveDevices(written)]);
  } catch (error) {
    // Until it has ended it may still make its file.
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
