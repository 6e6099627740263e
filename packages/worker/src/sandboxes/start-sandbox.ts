import { asSandboxError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SnapshotId } from "@opensandbox/wire/ids.ts";
import type { Progress, Span, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { failpoint } from "#host/failpoints.ts";
import { memoryMibOf } from "#snapshots/manifest.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { Verifier } from "#snapshots/verify.ts";
import { admit, hostRoom } from "./admission.ts";
import { alignClock } from "./align-clock.ts";
import { describeError } from "./describe-error.ts";
import type { BootFiles, Host } from "./host.ts";
import { introduceGuest } from "./introduce-guest.ts";
import { writeEntry } from "./journal.ts";
import type { LiveMachine } from "./live-machine.ts";
import { LiveSandbox } from "./live-sandbox.ts";
import type { OwnMemory } from "./own-memory.ts";
import { applyNetworkPolicy, policyOf, requirePolicy } from "./network-policy.ts";
import type { ReadyMachines } from "./ready-machines.ts";
import { Spans } from "./spans.ts";
import { bootMachine, type MachineRequest, newMachineId, restoreMachine } from "./start-machine.ts";
import type { TemplateRequest, Templates } from "./templates.ts";

/** A ready machine has answered before, so this is plenty; and there is another way when it does not. */
const readyTimeoutMs = 15_000;

export interface Sources {
  readonly templates: Templates;
  readonly ready: ReadyMachines;
  readonly verifier: Verifier;
  readonly ownMemory: OwnMemory;
}

export interface Started {
  readonly sandbox: LiveSandbox;
  readonly restoredFrom: "memory" | "disk";
  readonly restoredBecause?: string;
  readonly spans: readonly Span[];
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
  if (request.from.kind === "image") {
    return await fromImage(request, request.from.image, host, sources, spans, onProgress, signal);
  }
  const begun = await fromSnapshot(request, request.from, host, sources, spans, signal);
  return await finish(begun, request, host, spans, signal);
}

/** Lets a machine that has begun become the sandbox. After a failure nothing is left of it. */
async function finish(
  begun: Begun,
  request: StartSandbox,
  host: Host,
  spans: Spans,
  signal: AbortSignal,
): Promise<Started> {
  await using undo = new AsyncDisposableStack();
  const live = undo.use(begun.live);
  live.organizationId = request.organizationId;
  await applyNetworkPolicy(live, request, host);
  await failpoint("resume");
  if (begun.from === "restore") await live.machine.resume();
  const copied = request.from.kind === "image" ? begun.from === "restore" : request.from.identity === "new";
  await failpoint("introduce guest");
  await introduceGuest(live, { id: request.id, envs: request.envs, copied }, begun.from, signal);
  spans.end("guest");
  await failpoint("journal sandbox");
  await journal(live, request, host);
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

/** What another worker needs to go on with the sandbox. */
export async function journal(
  live: LiveMachine,
  request: StartSandbox,
  host: Host,
  hibernating?: SnapshotId,
): Promise<void> {
  const { workerId, ephemeral, dataDirectory } = host;
  const entry = { machineId: live.id, workerId, ephemeral, sandbox: request, machine: live.journaled() };
  await writeEntry(dataDirectory, hibernating === undefined ? entry : { ...entry, hibernating });
}

interface Begun {
  readonly live: LiveMachine;
  /** `restore`: it is paused. */
  readonly from: "boot" | "restore";
  /** Why it was booted although it could have been restored. */
  readonly because?: string;
}

async function fromImage(
  request: StartSandbox,
  image: string,
  host: Host,
  { templates, ready }: Sources,
  spans: Spans,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Started> {
  // Rules keep a network off, where there are rules: then every machine has the device.
  const networkEnabled = request.networkEnabled || host.network.mode === "tap";
  const wanted = { image, shape: shapeOf(request), networkEnabled };
  const files = await host.bootFiles?.({ image, workspaceMib: request.workspaceMib }, onProgress, signal);
  spans.end("image");
  if (files === undefined || !templates.possible) {
    return await finish(await boot(request, image, files, host, spans, signal), request, host, spans, signal);
  }
  const key = templates.keyOf(wanted, files);
  for (let claimed = ready.claim(key); claimed !== undefined; claimed = ready.claim(key)) {
    spans.end("claim");
    const until = AbortSignal.any([signal, AbortSignal.timeout(readyTimeoutMs)]);
    try {
      return await finish({ live: claimed, from: "restore" }, request, host, spans, until);
    } catch (error) {
      if (signal.aborted) throw error;
      const fields = { machine: claimed.id, ...describeError(error) };
      host.log("warn", "a ready machine does not work: another one is taken", fields);
    }
  }
  const template = { key, wanted, provide: () => templates.provide(key, wanted, files, onProgress, signal) };
  const begun = await fromTemplate(request, { image, files, template }, host, ready, spans, signal);
  return await finish(begun, request, host, spans, signal);
}

async function fromTemplate(
  request: StartSandbox,
  source: {
    readonly image: string;
    readonly files: BootFiles;
    readonly template: {
      readonly key: string;
      readonly wanted: TemplateRequest;
      provide(): Promise<StoredSnapshot>;
    };
  },
  host: Host,
  ready: ReadyMachines,
  spans: Spans,
  signal: AbortSignal,
): Promise<Begun> {
  const { image, files, template } = source;
  let because: string;
  try {
    const snapshot = await template.provide();
    spans.end("template");
    ready.want(template.key, snapshot, template.wanted);
    const machine = await begin({ ...machineRequest(request, image), organizationId: undefined }, request, host);
    return { live: await restoreMachine(machine, snapshot, host, spans, signal), from: "restore" };
  } catch (error) {
    if (signal.aborted) throw error;
    because = asSandboxError(error).message;
    const fields = { template: template.key, error: because };
    host.log("error", "a sandbox is booted since its template does not work", fields);
  }
  return { ...(await boot(request, image, files, host, spans, signal)), because };
}

async function fromSnapshot(
  request: StartSandbox,
  { snapshotId }: { readonly snapshotId: string },
  host: Host,
  { verifier, ownMemory }: Sources,
  spans: Spans,
  signal: AbortSignal,
): Promise<Begun> {
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
    const machine = await begin({ ...machineRequest(request, image), shape }, request, host);
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
      if (!isSandboxError(error, "incompatible") || error.message.includes("damaged")) throw error;
      because = error.message;
    }
  }
  await verified;
  return { ...(await boot(request, image, snapshot, host, spans, signal)), because };
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

async function boot(
  request: StartSandbox,
  image: string,
  source: BootFiles | StoredSnapshot | undefined,
  host: Host,
  spans: Spans,
  signal: AbortSignal,
): Promise<Begun> {
  const machine = await begin(machineRequest(request, image), request, host);
  return { live: await bootMachine(machine, source, host, spans, signal), from: "boot" };
}

/** Names the machine in the journal before there is anything of it. */
async function begin(machine: MachineRequest, request: StartSandbox, host: Host): Promise<MachineRequest> {
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
