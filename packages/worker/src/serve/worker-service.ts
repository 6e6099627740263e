import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import { inPieces, protocolVersion } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import * as guestWire from "@opensandbox/wire/worker/rpc/guest-messages.ts";
import * as wire from "@opensandbox/wire/worker/rpc/sandbox-messages.ts";
import type * as pb from "@opensandbox/wire/worker/rpc/worker_pb.js";
import type { HostStatus } from "@opensandbox/wire/worker/status.ts";
import type { Progress, StartedSandbox, Worker } from "@opensandbox/wire/worker/worker.ts";
import { portStream } from "./port-stream.ts";
import { SessionStreams } from "./session-streams.ts";

export interface ServedWorker {
  readonly worker: Worker;
  /** The name of the worker in the fleet. It stays when its process restarts, unlike the id of the worker itself. */
  readonly id: string;
  /** Random per process. */
  readonly instance: string;
  /** The version of this software. */
  readonly version: string;
  status(): Promise<HostStatus>;
  /** Absent: the worker runs machines whether a server asks for it or not. */
  readonly lease?: { readonly seconds: number; asked(): void; greeted(): void } | undefined;
}

/** Entries of a listing that one message holds. */
const entriesPerMessage = 1000;

/** The calls of the worker wire, answered by a worker of this process. */
export function workerService(served: ServedWorker): ServiceImpl<typeof pb.WorkerService> {
  const { worker } = served;
  const streams = new SessionStreams(worker);
  return {
    hello() {
      served.lease?.greeted();
      const leaseSeconds = served.lease?.seconds;
      return {
        protocolVersion,
        version: served.version,
        workerId: served.id,
        instance: served.instance,
        description: wire.descriptionToWire({
          ...worker.description,
          ...(leaseSeconds === undefined ? {} : { leaseSeconds }),
        }),
      };
    },
    async status() {
      served.lease?.asked();
      const { id: workerId, instance } = served;
      return wire.statusToWire({ workerId, instance, ...(await served.status()) });
    },

    startSandbox: (request, { signal }) => start(worker, request, signal),
    async stopSandbox({ sandboxId }) {
      await worker.stopSandbox(sandboxId as SandboxId);
      return {};
    },
    async listSandboxes() {
      return { sandboxes: (await worker.listSandboxes()).map(wire.heldToWire) };
    },
    async waitForEnd({ sandboxId }, { signal }) {
      const { reason, detail } = await worker.waitForEnd(sandboxId as SandboxId, signal);
      return { reason, detail };
    },
    async rebootSandbox({ sandboxId }, { signal }) {
      await worker.rebootSandbox(sandboxId as SandboxId, signal);
      return {};
    },
    async powerCycleSandbox({ sandboxId }, { signal }) {
      await worker.powerCycleSandbox(sandboxId as SandboxId, signal);
      return {};
    },
    async scaleSandbox(request, { signal }) {
      const size = wire.sizeFromWire(request);
      const { done, because } = await worker.scaleSandbox(request.sandboxId as SandboxId, size, signal);
      return { done, ...(because === undefined ? {} : { because }) };
    },
    async setNetworkPolicy(request) {
      await worker.setNetworkPolicy(request.sandboxId as SandboxId, wire.policyFromWire(request));
      return {};
    },
    async setSecrets({ sandboxId, secrets }) {
      if (secrets === undefined) throw new SandboxError("invalid_argument", "the secrets are missing");
      await worker.setSecrets(sandboxId as SandboxId, wire.secretsFromWire(secrets));
      return {};
    },
    async setEnvironment({ sandboxId, envs }) {
      await worker.setEnvironment(sandboxId as SandboxId, envs);
      return {};
    },
    async networkRefusals({ sandboxId }) {
      const refusals = await worker.networkRefusals(sandboxId as SandboxId);
      return { refusals: refusals.map((refusal) => ({ ...refusal })) };
    },
    async readConsole({ sandboxId }) {
      return { text: await worker.readConsole(sandboxId as SandboxId) };
    },

    async captureSandbox({ sandboxId, snapshotId, disksOnly }, { signal }) {
      const contents = disksOnly ? "disks" : "memory and disks";
      const capture = { snapshotId: snapshotId as SnapshotId, contents } as const;
      const { sizeBytes, pausedMs } = await worker.captureSandbox(sandboxId as SandboxId, capture, signal);
      return { sizeBytes, pausedMs };
    },
    async hibernateSandbox({ sandboxId, snapshotId }, { signal }) {
      const hibernated = await worker.hibernateSandbox(sandboxId as SandboxId, snapshotId as SnapshotId, signal);
      return { sizeBytes: hibernated.sizeBytes, pausedMs: hibernated.pausedMs };
    },
    async findSnapshot({ snapshotId }) {
      const found = await worker.findSnapshot(snapshotId as SnapshotId);
      return found === undefined ? {} : { sizeBytes: found.sizeBytes };
    },
    async removeSnapshot({ snapshotId }) {
      await worker.removeSnapshot(snapshotId as SnapshotId);
      return {};
    },
    async uploadSnapshot({ snapshotId }, { signal }) {
      await worker.uploadSnapshot(snapshotId as SnapshotId, signal);
      return {};
    },
    async removeStoredSnapshot({ snapshotId }) {
      await worker.removeStoredSnapshot(snapshotId as SnapshotId);
      return {};
    },
    async sweepStore(_request, { signal }) {
      return { ...(await worker.sweepStore(signal)) };
    },
    async measureDisk({ sandboxIds, snapshotIds }) {
      const owned = { sandboxes: sandboxIds as SandboxId[], snapshots: snapshotIds as SnapshotId[] };
      return { bytes: await worker.measureDisk(owned) };
    },
    async measureUse({ counted }) {
      return { machines: (await worker.measureUse(counted)).map((use) => ({ ...use })) };
    },

    async *guestRequests(_request, { signal }) {
      for await (const request of worker.guestRequests(signal)) yield wire.guestRequestToWire(request);
    },
    async answerGuest({ requestId, status, bodyJson }) {
      await worker.answerGuest(requestId, { status, body: bodyOf(bodyJson) });
      return {};
    },
    async readyMachines() {
      return wire.readyMachinesToWire(await worker.readyMachines());
    },

    async createSession(request, { signal }) {
      const { sessions } = worker.guest(request.sandboxId as SandboxId);
      return guestWire.execSessionToWire(await sessions.create(guestWire.sessionFromWire(request), signal));
    },
    runSession: (request, { signal }) => streams.run(request, signal),
    attachSession: (request, { signal }) => streams.attach(request, signal),
    async writeSession(request) {
      await streams.write(request);
      return {};
    },
    async *listSessions({ sandboxId }, { signal }) {
      const sessions = await worker.guest(sandboxId as SandboxId).sessions.list(signal);
      for (const part of parts(sessions)) yield { sessions: part.map(guestWire.execSessionToWire) };
    },
    async waitSession({ sandboxId, sessionId, milliseconds }, { signal }) {
      const { sessions } = worker.guest(sandboxId as SandboxId);
      return guestWire.execSessionToWire(await sessions.wait(sessionId, milliseconds, signal));
    },
    async signalSession({ sandboxId, sessionId, number }, { signal }) {
      await worker.guest(sandboxId as SandboxId).sessions.signal(sessionId, number, signal);
      return {};
    },
    async resizeSession({ sandboxId, sessionId, size }, { signal }) {
      const { columns = 0, rows = 0 } = size ?? {};
      await worker.guest(sandboxId as SandboxId).sessions.resize(sessionId, { columns, rows }, signal);
      return {};
    },
    async removeSession({ sandboxId, sessionId }, { signal }) {
      await worker.guest(sandboxId as SandboxId).sessions.remove(sessionId, signal);
      return {};
    },

    async *readFile({ sandboxId, path, offset, length }, { signal }) {
      const { entry, content } = await worker
        .guest(sandboxId as SandboxId)
        .files.read(path, { offset, length }, signal);
      yield { event: { case: "entry", value: guestWire.entryToWire(entry) } };
      for await (const piece of inPieces(content)) yield { event: { case: "content", value: piece } };
    },
    writeFile: (inputs, { signal }) => writeFile(worker, inputs, signal),
    async statFile({ sandboxId, path, noFollow }, { signal }) {
      return guestWire.entryToWire(await worker.guest(sandboxId as SandboxId).files.stat(path, { noFollow }, signal));
    },
    async *listFiles({ sandboxId, path }, { signal }) {
      const entries = await worker.guest(sandboxId as SandboxId).files.list(path, signal);
      for (const part of parts(entries)) yield { entries: part.map(guestWire.entryToWire) };
    },
    async makeDirectory({ sandboxId, path }, { signal }) {
      await worker.guest(sandboxId as SandboxId).files.makeDirectory(path, signal);
      return {};
    },
    async removeFile({ sandboxId, path }, { signal }) {
      await worker.guest(sandboxId as SandboxId).files.remove(path, signal);
      return {};
    },
    async renameFile({ sandboxId, from, to }, { signal }) {
      await worker.guest(sandboxId as SandboxId).files.rename(from, to, signal);
      return {};
    },
    async setAttributes({ sandboxId, path, mode, owner, group }, { signal }) {
      const attributes = {
        ...(mode === undefined ? {} : { mode }),
        ...(owner === undefined ? {} : { owner }),
        ...(group === undefined ? {} : { group }),
      };
      const { files } = worker.guest(sandboxId as SandboxId);
      return guestWire.entryToWire(await files.setAttributes(path, attributes, signal));
    },
    async *watchFiles({ sandboxId, path, recursive }, { signal }) {
      const changes = await worker.guest(sandboxId as SandboxId).files.watch(path, { recursive }, signal);
      yield {};
      for await (const batch of changes)
        yield { changes: batch.map(({ kind, path: changed }) => ({ kind, path: changed })) };
    },
    async syncFiles({ sandboxId }, { signal }) {
      await worker.guest(sandboxId as SandboxId).files.sync(signal);
      return {};
    },

    openPort: (inputs, { signal }) => portStream(worker, inputs, signal),
  };
}

async function* start(
  worker: Worker,
  request: pb.StartSandboxRequest,
  signal: AbortSignal,
): AsyncGenerator<MessageInitShape<typeof pb.StartSandboxReplySchema>> {
  // Progress is news: of several steps that the caller has not read yet, only the latest counts.
  let news: Progress | undefined;
  let changed = Promise.withResolvers<void>();
  const onProgress = (progress: Progress): void => {
    news = progress;
    changed.resolve();
  };
  const starting = worker.startSandbox(wire.startFromWire(request), onProgress, signal);
  // A caller that has left reads no failure.
  starting.catch(() => undefined);
  for (;;) {
    const started: StartedSandbox | undefined = await Promise.race([starting, changed.promise.then(() => undefined)]);
    changed = Promise.withResolvers();
    if (news !== undefined) yield { event: { case: "progress", value: { ...news } } };
    news = undefined;
    if (started === undefined) continue;
    yield { event: { case: "started", value: wire.startedToWire(started) } };
    return;
  }
}

async function writeFile(
  worker: Worker,
  inputs: AsyncIterable<pb.WriteFileInput>,
  signal: AbortSignal,
): Promise<MessageInitShape<typeof pb.WriteFileReplySchema>> {
  const messages = inputs[Symbol.asyncIterator]();
  const first = await messages.next();
  const request = first.done === true ? undefined : first.value.event;
  if (request?.case !== "request") throw new SandboxError("invalid_argument", "an upload begins with its request");
  const { sandboxId, path, mode } = request.value;
  const { files } = worker.guest(sandboxId as SandboxId);
  return { bytes: await files.write(path, contentOf(messages), mode === undefined ? {} : { mode }, signal) };
}

/** A stream that breaks may look like one that ends, so the end is a message of its own. */
async function* contentOf(messages: AsyncIterator<pb.WriteFileInput>): AsyncGenerator<Uint8Array> {
  for (let next = await messages.next(); next.done !== true; next = await messages.next()) {
    const { event } = next.value;
    if (event.case === "end") return;
    if (event.case === "content") yield event.value;
  }
  throw new SandboxError("canceled", "the upload was not finished");
}

/** Parts of a list, at least one, each of which fits into a message. */
function* parts<T>(all: readonly T[]): Generator<readonly T[]> {
  for (let start = 0; start === 0 || start < all.length; start += entriesPerMessage) {
    yield all.slice(start, start + entriesPerMessage);
  }
}

function bodyOf(json: string): object {
  try {
    const body: unknown = JSON.parse(json);
    if (typeof body === "object" && body !== null) return body;
  } catch (cause) {
    throw new SandboxError("invalid_argument", "the answer to a guest is not JSON", { cause });
  }
  throw new SandboxError("invalid_argument", "the answer to a guest is not an object");
}
