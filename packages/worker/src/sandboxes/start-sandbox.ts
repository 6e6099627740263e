import { chown, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createOverlay } from "#disks/qcow2.ts";
import { GuestClient } from "#guest/guest-client.ts";
import { claimSlot, type Slot } from "#host/slots.ts";
import type { DiskAttachment, Machine, MachineSpec, NetworkAttachment } from "#machine/machine.ts";
import { joinHostNetwork } from "#network/host-network.ts";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { Progress, Span, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { randomBytes } from "node:crypto";
import { bootArguments } from "./boot-arguments.ts";
import type { BootFiles, Host } from "./host.ts";
import { machineDirectory, removeEntry, writeEntry } from "./journal.ts";
import { LiveSandbox } from "./live-sandbox.ts";

/**
 * The first user id of machines: slot n's process runs as this plus n. Far above what distributions give to people
 * and to containers of users (/etc/subuid starts at 100000 and rarely has more than a few dozen ranges).
 */
const firstMachineUser = 1_900_000_000;

/** Emulation boots in 5 to 10 s when it has a core to itself, and shares cores in a burst. */
const guestReadyTimeoutMs = 180_000;

/**
 * Disks, network, machine, guest, in that order; whatever fails, all that came before is undone, newest first.
 * Resolves when a command would work.
 */
export async function startSandbox(
  request: StartSandbox,
  host: Host,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<{ readonly sandbox: LiveSandbox; readonly spans: readonly Span[] }> {
  const spans = new Spans();
  if (request.from.kind !== "image") throw new SandboxError("not_supported", "snapshots are not there yet", undefined);
  const { image } = request.from;
  const files = await host.bootFiles?.({ image, workspaceMib: request.workspaceMib }, onProgress, signal);
  spans.end("image");

  await using undo = new AsyncDisposableStack();
  await writeEntry(host.dataDirectory, { id: request.id, generation: request.generation, workerId: host.workerId });
  undo.defer(() => removeEntry(host.dataDirectory, request.id));
  const directory = machineDirectory(host.dataDirectory, request.id);
  const place = undo.use(await makePlace(directory, host.root));
  spans.end("journal");

  const disks = files === undefined ? [] : await makeDisks(place, files);
  spans.end("disks");
  const network = await attachNetwork(request, host, place.slot, undo);
  spans.end("network");

  const spec: MachineSpec = {
    directory,
    ...(place.user === undefined ? {} : { user: place.user }),
    vcpus: request.vcpus,
    memoryMib: request.memoryMib,
    kernel: files?.kernel ?? "",
    initramfs: files?.initramfs ?? "",
    bootArguments,
    disks,
    network,
  };
  const machine = undo.use(await host.hypervisor.boot(spec, signal));
  spans.end("machine");
  const guest = undo.use(await GuestClient.connect(machine.agentSocket));
  await configureGuest(guest, machine, request, signal);
  spans.end("guest");
  return { sandbox: new LiveSandbox(request, machine, guest, undo.move()), spans: spans.list };
}

/** A directory of its own, and where this process is root a slot and a user of its own. */
interface Place extends AsyncDisposable {
  readonly directory: string;
  readonly slot: Slot | undefined;
  readonly user: { readonly uid: number; readonly gid: number } | undefined;
}

async function makePlace(directory: string, root: boolean): Promise<Place> {
  await using undo = new AsyncDisposableStack();
  // Passable but not readable: a machine's user reaches its own directory in it and no other.
  await mkdir(join(directory, ".."), { recursive: true, mode: 0o711 });
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  await mkdir(directory, { mode: 0o700 });
  let slot: Slot | undefined;
  let user: Place["user"];
  if (root) {
    slot = await claimSlot(directory);
    undo.use(slot);
    user = { uid: firstMachineUser + slot.number, gid: firstMachineUser + slot.number };
    await chown(directory, user.uid, user.gid);
  }
  const owned = undo.move();
  return { directory, slot, user, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function makeDisks({ directory, user }: Place, files: BootFiles): Promise<DiskAttachment[]> {
  const rootfs = join(directory, "rootfs.qcow2");
  const workspace = join(directory, "workspace.qcow2");
  await createOverlay(rootfs, files.rootfsBytes);
  await createOverlay(workspace, files.workspaceBytes);
  if (user !== undefined) {
    await chown(rootfs, user.uid, user.gid);
    await chown(workspace, user.uid, user.gid);
  }
  return [
    { name: "rootfs", format: "qcow2", file: rootfs, readOnly: false, base: files.rootfs },
    { name: "workspace", format: "qcow2", file: workspace, readOnly: false, base: files.workspace },
    { name: "agent", format: "raw", file: files.agentDisk, readOnly: true },
  ];
}

async function attachNetwork(
  request: StartSandbox,
  host: Host,
  slot: Slot | undefined,
  undo: AsyncDisposableStack,
): Promise<NetworkAttachment> {
  if (!request.networkEnabled || host.network.mode === "none") return { kind: "none" };
  if (host.network.mode !== "tap" || slot === undefined) return { kind: "user" };
  const { resolver } = host.network;
  return undo.use(await joinHostNetwork(slot, resolver));
}

/** Waits for the agent and tells it who the machine is; fails with the console's last words when it never comes. */
async function configureGuest(
  guest: GuestClient,
  machine: Machine,
  request: StartSandbox,
  signal: AbortSignal,
): Promise<void> {
  const ended = new AbortController();
  const until = AbortSignal.any([signal, ended.signal, AbortSignal.timeout(guestReadyTimeoutMs)]);
  const exit = machine.exited.then((end) => {
    throw new SandboxError("unavailable", `the machine ${end.reason} while it was booting: ${end.detail}`, undefined);
  });
  try {
    await Promise.race([exit, introduce(guest, request, until)]);
  } catch (error) {
    ended.abort();
    if (signal.aborted) throw error;
    const console = await machine.console().catch(() => "");
    const { code, message } = asSandboxError(error);
    const said = console.trim() === "" ? "its console is empty" : `its console ends with:\n${lastLines(console)}`;
    throw new SandboxError(code, `${message}; ${said}`, undefined, { cause: error });
  }
}

async function introduce(guest: GuestClient, request: StartSandbox, signal: AbortSignal): Promise<void> {
  await guest.ready(signal);
  await guest.call(
    methods.configure,
    {
      hostname: "sandbox",
      clockUnixNanos: BigInt(Date.now()) * 1_000_000n,
      entropy: randomBytes(64),
      envs: { ...request.envs },
      replaceEnvs: true,
    },
    signal,
  );
}

function lastLines(text: string): string {
  return text.trimEnd().split(/\r?\n/).slice(-12).join("\n");
}

/** What each part of a start took. */
class Spans {
  readonly list: Span[] = [];
  #since = performance.now();

  end(name: string): void {
    const now = performance.now();
    this.list.push({ name, milliseconds: now - this.#since });
    this.#since = now;
  }
}
