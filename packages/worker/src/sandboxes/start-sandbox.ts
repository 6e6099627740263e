import { asSandboxError, describeError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Progress, Span, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { failpoint } from "#host/failpoints.ts";
import type { IdleTime } from "#host/idle-time.ts";
import { memoryMibOf } from "#snapshots/manifest.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { Verifier } from "#snapshots/verify.ts";
import { admit, hostRoom } from "#host/admission.ts";
import { alignClock } from "#guest/align-clock.ts";
import { hostnameOf } from "#guest/guest-identity.ts";
import type { BootFiles, Host } from "#machine/host.ts";
import { introduceGuest } from "#machine/introduce-guest.ts";
import { entryOf, flushJournal, stageEntry, writeEntry } from "#machine/journal.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import { LiveSandbox } from "./live-sandbox.ts";
import type { OwnMemory } from "#templates/own-memory.ts";
import { applyNetworkPolicy, policyOf, requirePolicy } from "./network-policy.ts";
import type { ReadyMachines } from "#templates/ready-machines.ts";
import { Spans } from "#machine/spans.ts";
import type { StartQueue } from "./start-queue.ts";
import { bootMachine, type MachineRequest, newMachineId, restoreMachine } from "#machine/start-machine.ts";
import type { Templates } from "#templates/templates.ts";

/** A ready machine has answered before, so this is plenty; and there is another way when it does not. */
const readyTimeoutMs = 15_000;

export interface Sources {
  readonly templates: Templates;
  readonly ready: ReadyMachines;
  readonly verifier: Verifier;
  readonly ownMemory: OwnMemory;
  readonly queue: StartQueue;
  readonly idle: IdleTime;
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
  /** Waits until a machine may begin: at once when that was waited for before. */
  readonly enter: () => Promise<void>;
  readonly onProgress: (progress: Progress) => void;
  readonly signal: AbortSignal;
}

/** Resolves when a command would work; after a failure nothing is left. */
export async function startSandbox(
  request: StartSandbox,
  host: Host,
  sources: Sources,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Started> {
  requirePolicy(policyOf(request), host);
  const spans = new Spans();
  admit(await hostRoom(host.dataDirectory), request.memoryMib);
  using turn = new DisposableStack();
  let entered: Promise<void> | undefined;
  const enter = async (): Promise<void> => {
    if (entered === undefined && sources.queue.isFull) onProgress({ step: "waiting for other sandboxes to start" });
    entered ??= sources.queue.enter(signal).then((mine) => {
      turn.use(mine);
      spans.end("queue");
    });
    await entered;
  };
  const start = { request, host, spans, enter, onProgress, signal };
  if (request.from.kind === "image") return await fromImage(start, request.from.image, sources);
  return await finish(start, await fromSnapshot(start, request.from, sources), signal);
}

/** Lets a machine that has begun become the sandbox. After a failure nothing is left of it. */
async function finish({ request, host, spans }: Start, begun: Begun, signal: AbortSignal): Promise<Started> {
  await using undo = new AsyncDisposableStack();
  const live = undo.use(begun.live);
  live.organizationId = request.organizationId;
  // Forcing the entry to the disk takes as long as introducing the guest, so both happen at the same time.
  const staging = stageEntry(host.dataDirectory, entryOf(live, request, host));
  staging.catch(() => undefined);
  undo.defer(async () => await (await staging.catch(() => undefined))?.[Symbol.asyncDispose]());
  await applyNetworkPolicy(live, request, host);
  await failpoint("resume");
  if (begun.from === "restore") await live.vm.resume();
  const copied = request.from.kind === "image" ? begun.from === "restore" : request.from.identity === "new";
  await failpoint("introduce guest");
  const { id, envs } = request;
  await introduceGuest(live, { id, hostname: hostnameOf(request), envs, copied }, begun.from, signal);
  spans.end("guest");
  await failpoint("journal sandbox");
  await (await staging).commit();
  await flushJournal(host.dataDirectory);
  spans.end("journal");
  undo.move();
  void alignClock(live, host);
  return {
    sandbox: new LiveSandbox(request, live),
    restoredFrom: begun.from === "restore" ? "memory" : "disk",
    ...(begun.because === undefined ? {} : { restoredBecause: begun.because }),
    spans: spans.list,
  };
}

interface Begun {
  readonly live: LiveMachine;
  /** `restore`: it is paused. */
  readonly from: "boot" | "restore";
  /** Why it was booted although it could have been restored. */
  readonly because?: string;
}

async function fromImage(start: Start, image: string, { templates, ready }: Sources): Promise<Started> {
  const { request, host, spans, onProgress, signal } = start;
  // Rules keep a network off, where there are rules: then every machine has the device.
  const networkEnabled = request.networkEnabled || host.network.mode === "tap";
  const wanted = { image, shape: shapeOf(request), networkEnabled };
  const files = await host.bootFiles?.({ image, workspaceMib: request.workspaceMib }, onProgress, signal);
  spans.end("image");
  if (files === undefined || !templates.possible) return await finish(start, await boot(start, image, files), signal);
  const key = templates.keyOf(wanted, files);
  for (let claimed = ready.claim(key); claimed !== undefined; claimed = ready.claim(key)) {
    spans.end("claim");
    const until = AbortSignal.any([signal, AbortSignal.timeout(readyTimeoutMs)]);
    try {
      return await finish(start, { live: claimed, from: "restore" }, until);
    } catch (error) {
      if (signal.aborted) throw error;
      const fields = { machine: claimed.id, ...describeError(error) };
      host.log("warn", "a ready machine does not work: another one is taken", fields);
    }
  }
  const provide = async (): Promise<StoredSnapshot> => {
    const template = await templates.provide(key, wanted, files, onProgress, signal);
    spans.end("template");
    ready.want(key, template, wanted);
    return template;
  };
  return await finish(start, await fromTemplate(start, { image, files, key, provide }), signal);
}

async function fromTemplate(
  start: Start,
  template: {
    readonly image: string;
    readonly files: BootFiles;
    readonly key: string;
    readonly provide: () => Promise<StoredSnapshot>;
  },
): Promise<Begun> {
  const { request, host, spans, signal } = start;
  const { image, files, key, provide } = template;
  let because: string;
  try {
    const snapshot = await provide();
    const machine = await begin(start, { ...machineRequest(request, image), organizationId: undefined });
    return { live: await restoreMachine(machine, snapshot, host, spans, signal), from: "restore" };
  } catch (error) {
    if (signal.aborted) throw error;
    if (isSandboxError(error, "not_supported")) {
      // A boot would use the same accelerator.
      host.log("error", "this host starts no machine", { template: key, error: error.message });
      throw error;
    }
    because = asSandboxError(error).message;
    host.log("error", "a sandbox is booted since its template does not work", { template: key, error: because });
  }
  return { ...(await boot(start, image, files)), because };
}

async function fromSnapshot(
  start: Start,
  { snapshotId }: { readonly snapshotId: string },
  { verifier, ownMemory }: Sources,
): Promise<Begun> {
  const { request, host, spans, signal } = start;
  // Who removes it meanwhile waits, and what this machine needs of it is its own then.
  using _held = host.snapshots.hold(snapshotId);
  const snapshot = await host.snapshots.find(snapshotId);
  if (snapshot === undefined) {
    throw new SandboxError("not_found", `there is no snapshot ${snapshotId}`, { resource: "snapshot", id: snapshotId });
  }
  const verified = verifier.verify(snapshot);
  verified.catch(() => undefined);
  const { image } = snapshot.manifest;
  let because = whyDisksAlone(snapshot, request);
  if (because === undefined) {
    // Memory that it was given later is not its shape's.
    const { shape } = snapshot.manifest;
    const machine = await begin(start, { ...machineRequest(request, image), shape });
    try {
      const live = await restoreMachine(machine, snapshot, host, spans, signal);
      await orDisposed(verified, live);
      if (request.from.kind === "snapshot" && request.from.identity === "new") {
        ownMemory.forked(snapshot, request.organizationId);
      }
      return { live, from: "restore" };
    } catch (error) {
      // Of a damaged snapshot nothing is made; memory that this host cannot use is another thing.
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

/** Pure: undefined when its memory may be restored for the request. */
export function whyDisksAlone({ manifest }: StoredSnapshot, request: StartSandbox): string | undefined {
  if (manifest.memory === undefined) return "the snapshot has no memory";
  const { vcpus, workspaceMib } = manifest.shape;
  const memoryMib = memoryMibOf(manifest);
  if (vcpus !== request.vcpus || memoryMib !== request.memoryMib || workspaceMib !== request.workspaceMib) {
    return `the snapshot is of a machine with ${vcpus} vCPUs, ${memoryMib} MiB and a workspace of ${workspaceMib} MiB`;
  }
  return undefined;
}

async function boot(start: Start, image: string, source: BootFiles | StoredSnapshot | undefined): Promise<Begun> {
  const { request, host, spans, signal } = start;
  const machine = await begin(start, machineRequest(request, image));
  return { live: await bootMachine(machine, source, host, spans, signal), from: "boot" };
}

/** When its turn has come, names the machine in the journal before there is anything of it. */
async function begin({ request, host, enter }: Start, machine: MachineRequest): Promise<MachineRequest> {
  await enter();
  const { workerId, ephemeral, dataDirectory } = host;
  await writeEntry(dataDirectory, { machineId: machine.id, workerId, ephemeral, sandbox: request });
  return machine;
}

function machineRequest(request: StartSandbox, image: string): MachineRequest {
  const { networkEnabled, organizationId, from } = request;
  const fromPublic = from.kind === "snapshot" && from.public === true;
  return { id: newMachineId(), image, shape: shapeOf(request), networkEnabled, organizationId, fromPublic };
}

function shapeOf({ vcpus, memoryMib, workspaceMib }: StartSandbox) {
  return { vcpus, memoryMib, workspaceMib };
}
