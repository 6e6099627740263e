import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Machine } from "#machine/machine.ts";
import { allFiles, type MemoryFiles, type MachineFiles, type StoredFile } from "#snapshots/manifest.ts";
import type { CaptureTurn } from "#snapshots/memory-threads.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Host } from "./host.ts";
import type { LiveMachine } from "./live-machine.ts";
import { linkFiles, type Owner, seal } from "./machine-files.ts";

/** How long the guest has to bring its disks to rest. A gigabyte that is still to be written takes seconds. */
const freezeTimeoutMs = 60_000;

/** A guest thaws by itself after 30 s: what was frozen longer ago than this may not be so any more. */
const freshFreezeMs = 10_000;

/** A thaw that does not come back leaves the guest to its own deadline. */
const thawTimeoutMs = 30_000;

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
  const { machine, layers } = live;
  const { capturing } = machine;
  if (capturing === undefined) {
    throw new SandboxError("not_supported", `${host.hypervisor.name} machines cannot be captured`, undefined);
  }
  await live.merging.stop();
  using turn = await host.memory.captureTurn();
  await using undo = new AsyncDisposableStack();
  await capturing.openLayers(await layers.make(live.directory.path));
  // Nothing to drop once they are in use.
  undo.defer(() => capturing.dropLayers());
  const frozenSince = performance.now();
  const thaw = undo.adopt(new Thaw(live), (it) => it.run());
  await live.guest.freeze(AbortSignal.any([signal, AbortSignal.timeout(freezeTimeoutMs)]));

  const pausedSince = performance.now();
  if (pausedSince - frozenSince > freezeTimeoutMs + freshFreezeMs) throw tooLate();
  const resume = undo.adopt(new Resume(machine), (it) => it.run());
  await machine.pause();
  await capturing.switchLayers();
  const complete = layers.push();
  const taken = request.contents === "disks" ? undefined : await takeMemory(live, request.directory, turn, host);
  if (request.afterwards === "go on") {
    await resume.run();
    await thaw.run();
  }
  const pausedMs = performance.now() - pausedSince;

  const stored = await taken?.stored();
  for (const { file } of complete) await seal(join(live.directory.path, file), request.tenant);
  await hashLayers(live, host);
  await linkFiles(allFiles(layers.files), live.directory.path, request.directory);
  const compatibility = host.hypervisor.restoring?.compatibilityOf(live.spec) ?? "";
  const memory = stored === undefined ? undefined : { compatibility, ...stored };
  if (memory !== undefined) await seal(join(request.directory, memory.devices.file), request.tenant);
  if (request.afterwards === "stay") {
    // The caller ends the machine, or resumes and thaws it.
    resume.cancel();
    thaw.cancel();
  }
  return { files: layers.files, memory, ownBytes: ownBytesOf(layers.files, complete, memory), pausedMs };
}

/** Lets a machine go on that was captured to stay. */
export async function goOnAfterCapture(live: LiveMachine): Promise<void> {
  await live.machine.resume();
  await new Thaw(live).run();
}

/** What is done once, early or by unwinding. */
class Once {
  #done = false;
  readonly #act: () => Promise<void>;

  constructor(act: () => Promise<void>) {
    this.#act = act;
  }

  async run(): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    await this.#act();
  }

  cancel(): void {
    this.#done = true;
  }
}

class Thaw extends Once {
  constructor({ guest }: LiveMachine) {
    super(() => guest.goOn(AbortSignal.timeout(thawTimeoutMs)));
  }
}

class Resume extends Once {
  constructor(machine: Machine) {
    super(() => machine.resume());
  }
}

/** Both at the same time; settles when both are taken, and `stored` when they are on the disk. */
async function takeMemory(live: LiveMachine, directory: string, turn: CaptureTurn, host: Host) {
  const { capturing } = live.machine;
  if (capturing === undefined) throw new Error("the machine cannot be captured");
  const deltaFile = "memory.delta";
  // The machine's process writes it, so it begins in the machine's directory.
  const devicesFile = `devices-${live.layers.next}`;
  const written = join(live.directory.path, devicesFile);
  await rm(written, { force: true });
  const memory = turn.capture(capturing.memory, join(directory, deltaFile));
  await Promise.all([memory.copied, capturing.saveDevices(written)]);
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

function ownBytesOf(
  files: MachineFiles,
  complete: readonly { readonly file: string }[],
  memory: MemoryFiles | undefined,
): number {
  const own = new Set(complete.map(({ file }) => file));
  const layers = files.disks.flatMap((disk) => disk.layers).filter(({ file }) => own.has(file));
  const parts = [...layers, ...(memory === undefined ? [] : [memory.devices, memory.delta])];
  return parts.reduce((sum, part) => sum + (part?.bytes ?? 0), 0);
}

function tooLate(): SandboxError {
  return new SandboxError("unavailable", "the guest took too long to hold its disks still", undefined);
}
