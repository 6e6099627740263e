import { asSandboxError, describeError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Progress, Span, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { failpoint } from "#host/failpoints.ts";
import type { IdleTime } from "#host/idle-time.ts";
import { memoryMibOf } from "#snapshots/manifest.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { Verifier } from "#snapshots/verify.ts";
import { alignClock } from "#guest/align-clock.ts";
import { type GuestHooks, hooksOf } from "#guest/guest-hooks.ts";
import { hostnameOf } from "#guest/guest-identity.ts";
import { holdBootFiles } from "#machine/boot-files.ts";
import type { BootFiles, Host } from "#machine/host.ts";
import { tenantGroupOf } from "#machine/host-resources.ts";
import { introduceGuest } from "#machine/introduce-guest.ts";
import { entryOf, flushJournal, stageEntry, withoutSecrets, writeEntry } from "#machine/journal.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import { LiveSandbox } from "./live-sandbox.ts";
import type { OwnMemory } from "#templates/own-memory.ts";
import { applyNetworkPolicy, policyOf, requirePolicy, requireSecrets } from "./network-policy.ts";
import type { RemoteSnapshots } from "#remote-snapshots/remote-snapshots.ts";
import type { ReadyMachines } from "#templates/ready-machines.ts";
import { makeReadyMachine } from "#templates/make-ready-machine.ts";
import { Spans } from "#machine/spans.ts";
import type { StartQueue } from "./start-queue.ts";
import { takeTurn } from "./take-turn.ts";
import type { MachineRequest } from "#machine/machine-request.ts";
import { bootMachine, newMachineId, restoreMachine } from "#machine/start-machine.ts";
import { machineVcpus } from "#machine/shape/template-shape.ts";
import { offerShape, reshapeGuest, reshapeMachine } from "#machine/shape/reshape-machine.ts";
import type { HeldTemplate, TemplateRequest, Templates } from "#templates/templates.ts";

/** Deadline of a ready machine, which normally answers within a second. After it the sandbox starts another way. */
const readyTimeoutMs = 15_000;

/** The parts of the worker that every start of a sandbox uses. */
export interface Sources {
  readonly templates: Templates;
  readonly ready: ReadyMachines<LiveMachine>;
  readonly verifier: Verifier;
  readonly ownMemory: OwnMemory;
  readonly queue: StartQueue;
  readonly idle: IdleTime;
  /** Provides snapshots that this worker lacks. Absent: it has no object store. */
  readonly remote: RemoteSnapshots | undefined;
}

export interface Started {
  readonly sandbox: LiveSandbox;
  readonly restoredFrom: "memory" | "disk";
  readonly restoredBecause?: string;
  readonly spans: readonly Span[];
}

/** One attempt to start a sandbox. */
interface Start {
  readonly request: StartSandbox;
  readonly host: Host;
  readonly spans: Spans;
  /** Waits for the sandbox's turn to start a machine; further calls return at once. */
  readonly enter: () => Promise<void>;
  readonly onProgress: (progress: Progress) => void;
  readonly signal: AbortSignal;
}

/** Resolves when the guest accepts commands. After a failure nothing of the sandbox is left. */
export async function startSandbox(
  request: StartSandbox,
  host: Host,
  sources: Sources,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Started> {
  requirePolicy(policyOf(request), request, host);
  requireSecrets(request, host);
  const spans = new Spans();
  await host.admission.requirePossible(request.memoryMib);
  using turn = new DisposableStack();
  let entered: Promise<void> | undefined;
  const enter = async (): Promise<void> => {
    entered ??= takeTurn(request, { ...sources, admission: host.admission }, onProgress, signal).then((taken) => {
      turn.use(taken);
      spans.end("queue");
    });
    await entered;
  };
  const start = { request, host, spans, enter, onProgress, signal };
  if (request.from.kind === "image") return await fromImage(start, request.from.image, sources);
  const { from } = request;
  return await becomeOrRepeat(start, () => fromSnapshot(start, from, sources));
}

/**
 * Turns the machine that `provide` starts into the sandbox. When the guest of a restored machine stays silent, a second
 * machine is restored: an emulator can lose an interrupt. The first machine's disks go with it.
 */
async function becomeOrRepeat(start: Start, provide: () => Promise<StartedMachine>): Promise<Started> {
  const { host, signal } = start;
  const started = await provide();
  try {
    return await becomeSandbox(start, started, signal);
  } catch (error) {
    if (signal.aborted || started.from !== "restore" || !isSandboxError(error, "timed_out")) throw error;
    const fields = { machine: started.live.id, ...describeError(error) };
    host.log("warn", "the guest stays silent after its restore; the sandbox is restored once more", fields);
  }
  return await becomeSandbox(start, await provide(), signal);
}

/** Turns a machine into the sandbox. After a failure nothing of the machine is left. */
async function becomeSandbox(
  { request, host, spans }: Start,
  started: StartedMachine,
  signal: AbortSignal,
): Promise<Started> {
  await using undo = new AsyncDisposableStack();
  const live = undo.use(started.live);
  live.tenantGroup = tenantGroupOf(request);
  const offered = await reshapeMachine(live, request, host);
  // Forcing the entry to the disk takes as long as introducing the guest, so both happen at the same time.
  const staging = stageEntry(host.dataDirectory, entryOf(live, request, host));
  staging.catch(() => undefined);
  undo.defer(async () => await (await staging.catch(() => undefined))?.[Symbol.asyncDispose]());
  await applyNetworkPolicy(live, request, host);
  await failpoint("resume");
  if (started.from === "restore") await live.vm.resume();
  const copied = request.from.kind === "image" ? started.from === "restore" : request.from.identity === "new";
  await failpoint("introduce guest");
  const { id, envs, secrets } = request;
  const shape = await offerShape(live, request, offered);
  const hooks = hooksAfter(request);
  const identity = { id, hostname: hostnameOf(request), envs, copied, shape, secrets, hooks };
  const isTaken = await introduceGuest(live, identity, started.from, host, signal);
  await reshapeGuest(live, shape, offered, isTaken, signal);
  spans.end("guest");
  await failpoint("journal sandbox");
  await (await staging).commit();
  await flushJournal(host.dataDirectory);
  spans.end("journal");
  undo.move();
  void alignClock(live, host);
  return {
    sandbox: new LiveSandbox(request, live),
    restoredFrom: started.from === "restore" ? "memory" : "disk",
    ...(started.because === undefined ? {} : { restoredBecause: started.because }),
    spans: spans.list,
  };
}

/** The hooks of a start, unless it makes a new sandbox from an image. */
function hooksAfter({ from }: StartSandbox): GuestHooks | undefined {
  if (from.kind === "image") return undefined;
  return hooksOf(from.identity === "new" ? "after-fork" : "after-wake");
}

interface StartedMachine {
  readonly live: LiveMachine;
  /** `restore`: the machine is paused. */
  readonly from: "boot" | "restore";
  /** Why it was booted although there was memory to restore. */
  readonly because?: string;
}

async function fromImage(start: Start, image: string, { templates, ready }: Sources): Promise<Started> {
  const { request, host, spans, onProgress, signal } = start;
  // Where policies are enforced, every machine has a network device. Without the network, a policy blocks it.
  const networkEnabled = request.networkEnabled || host.network.mode === "tap";
  const wanted = { image, shape: templates.shapeFor(shapeOf(request)), networkEnabled };
  const files = await host.bootFiles?.({ image, workspaceMib: request.workspaceMib }, onProgress, signal);
  spans.end("image");
  if (files === undefined || !templates.possible)
    return await becomeSandbox(start, await bootImage(start, image), signal);
  const key = templates.keyOf(wanted, files);
  templates.recordUse(key);
  for (const claimed of ready.claims(key)) {
    spans.end("claim");
    const until = AbortSignal.any([signal, AbortSignal.timeout(readyTimeoutMs)]);
    try {
      return await becomeSandbox(start, { live: claimed, from: "restore" }, until);
    } catch (error) {
      if (signal.aborted) throw error;
      const fields = { machine: claimed.id, ...describeError(error) };
      host.log("warn", "a ready machine does not work; the sandbox takes another one", fields);
    }
  }
  const provide = async (): Promise<HeldTemplate> => {
    const template = await templates.provide(key, wanted, onProgress, signal);
    spans.end("template");
    const { snapshot } = template;
    const make = (until: AbortSignal) => makeReadyMachine(snapshot, wanted, host, until);
    ready.want(key, { image, ...wanted.shape, make });
    return template;
  };
  return await becomeOrRepeat(start, () => fromTemplate(start, { wanted, key, provide }));
}

async function fromTemplate(
  start: Start,
  template: {
    readonly wanted: TemplateRequest;
    readonly key: string;
    readonly provide: () => Promise<HeldTemplate>;
  },
): Promise<StartedMachine> {
  const { request, host, spans, signal } = start;
  const { wanted, key, provide } = template;
  let because: string;
  try {
    using held = await provide();
    const { image, shape } = wanted;
    const machine = await announce(start, { ...machineRequest(request, image), shape, tenantGroup: undefined });
    return { live: await restoreMachine(machine, held.snapshot, host, spans, signal), from: "restore" };
  } catch (error) {
    if (signal.aborted || isSandboxError(error, "no_capacity")) throw error;
    if (isSandboxError(error, "not_supported")) {
      // A boot is not tried, because it would use the same accelerator.
      host.log("error", "this host cannot start machines", { template: key, error: error.message });
      throw error;
    }
    because = asSandboxError(error).message;
    host.log("error", "the template does not work; the sandbox boots without it", { template: key, error: because });
  }
  return { ...(await bootImage(start, wanted.image)), because };
}

/** Boots from the image's files, or from none where the hypervisor boots none. */
async function bootImage(start: Start, image: string): Promise<StartedMachine> {
  const { request, host, onProgress, signal } = start;
  if (host.bootFiles === undefined) return await boot(start, image, undefined);
  const wanted = { image, workspaceMib: request.workspaceMib };
  using held = await holdBootFiles(host.bootFiles, wanted, onProgress, signal);
  return await boot(start, image, held.files);
}

async function fromSnapshot(
  start: Start,
  { snapshotId }: { readonly snapshotId: string },
  { verifier, ownMemory, remote }: Sources,
): Promise<StartedMachine> {
  const { request, host, spans, onProgress, signal } = start;
  // A removal waits until the machine has links of its own to the snapshot's files.
  using _held = host.snapshots.hold(snapshotId);
  let snapshot = await host.snapshots.find(snapshotId);
  if (snapshot === undefined && remote !== undefined) {
    const onBytes = (bytes: number): void =>
      onProgress({ step: `fetching the snapshot (${Math.floor(bytes / 2 ** 20)} MiB)` });
    await remote.fetch(snapshotId, onBytes, signal);
    spans.end("fetch");
    snapshot = await host.snapshots.find(snapshotId);
  }
  if (snapshot === undefined) {
    throw new SandboxError("not_found", `there is no snapshot ${snapshotId}`, { resource: "snapshot", id: snapshotId });
  }
  const verified = verifier.verify(snapshot);
  verified.catch(() => undefined);
  const { image } = snapshot.manifest;
  let because = whyDisksAlone(snapshot, request);
  if (because === undefined) {
    // The captured shape, without hotplugged memory: that comes back with the restore.
    const { shape } = snapshot.manifest;
    const machine = await announce(start, { ...machineRequest(request, image), shape });
    try {
      const live = await restoreMachine(machine, snapshot, host, spans, signal);
      await orDisposed(verified, live);
      if (request.from.kind === "snapshot" && request.from.identity === "new") {
        ownMemory.forked(snapshot);
      }
      return { live, from: "restore" };
    } catch (error) {
      // A damaged snapshot starts nothing. Memory that this host cannot use leaves the disks to boot.
      await verified;
      if (!isSandboxError(error, "incompatible") || error.details.reason === "damaged") throw error;
      because = error.message;
    }
  }
  await verified;
  return { ...(await boot(start, image, snapshot)), because };
}

async function orDisposed(verified: Promise<void>, live: LiveMachine): Promise<void> {
  try {
    await verified;
  } catch (error) {
    await live[Symbol.asyncDispose]();
    throw error;
  }
}

/** Why only the snapshot's disks can serve the request; undefined when its memory can be restored. Pure. */
function whyDisksAlone({ manifest }: StoredSnapshot, request: StartSandbox): string | undefined {
  if (manifest.memory === undefined) return "the snapshot has no memory";
  const { vcpus, workspaceMib } = manifest.shape;
  const memoryMib = memoryMibOf(manifest);
  // A machine with spare vCPUs serves any number below.
  if (
    (vcpus !== request.vcpus && vcpus !== machineVcpus(request.vcpus, { sparesProcessors: true })) ||
    memoryMib !== request.memoryMib ||
    workspaceMib !== request.workspaceMib
  ) {
    return `the snapshot was captured with ${vcpus} vCPUs, ${memoryMib} MiB of memory and a workspace of ${workspaceMib} MiB`;
  }
  return undefined;
}

async function boot(
  start: Start,
  image: string,
  source: BootFiles | StoredSnapshot | undefined,
): Promise<StartedMachine> {
  const { request, host, spans, signal } = start;
  // The guest agent of a snapshot's disks may be unable to take spare vCPUs offline, so it gets as many as it had.
  const captured = source !== undefined && "manifest" in source ? source.manifest.shape.vcpus : undefined;
  const { restoring = { sparesProcessors: false } } = host.hypervisor;
  const wanted = machineRequest(request, image);
  const vcpus = Math.max(request.vcpus, captured ?? machineVcpus(request.vcpus, restoring));
  const machine = await announce(start, { ...wanted, shape: { ...wanted.shape, vcpus } });
  return { live: await bootMachine(machine, source, host, spans, signal), from: "boot" };
}

/** Waits for the sandbox's turn, then names the machine in the journal: before its first side effect. */
async function announce({ request, host, enter }: Start, machine: MachineRequest): Promise<MachineRequest> {
  await enter();
  const { workerId, ephemeral, dataDirectory } = host;
  const sandbox = withoutSecrets(request);
  await writeEntry(dataDirectory, { machineId: machine.id, workerId, ephemeral, sandbox });
  return machine;
}

function machineRequest(request: StartSandbox, image: string): MachineRequest {
  const { networkEnabled, from } = request;
  const fromPublic = from.kind === "snapshot" && from.public === true;
  return {
    id: newMachineId(),
    image,
    shape: shapeOf(request),
    networkEnabled,
    tenantGroup: tenantGroupOf(request),
    fromPublic,
  };
}

function shapeOf({ vcpus, memoryMib, workspaceMib }: StartSandbox) {
  return { vcpus, memoryMib, workspaceMib };
}
