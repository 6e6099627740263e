import { setTimeout as sleep } from "node:timers/promises";
import { type CallOptions, Code, ConnectError } from "@connectrpc/connect";
import {
  asSandboxError,
  describeError,
  errorFromWire,
  errorToWire,
  isSandboxError,
  SandboxError,
} from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import { minProtocolVersion, protocolVersion } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import * as wire from "@opensandbox/wire/worker/rpc/sandbox-messages.ts";
import type { WorkerStatus } from "@opensandbox/wire/worker/status.ts";
import type {
  Capture,
  CapturedSnapshot,
  GuestAnswer,
  GuestRequest,
  HeldSandbox,
  MachineUse,
  NetworkRefusal,
  OwnedFiles,
  Progress,
  ReadyMachinesState,
  SandboxEnd,
  SandboxSecrets,
  SandboxSize,
  Scaled,
  StartedSandbox,
  StartSandbox,
  StoredSnapshot,
  SweptStore,
  Worker,
  WorkerDescription,
} from "@opensandbox/wire/worker/worker.ts";
import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import type { Guest } from "@opensandbox/wire/worker/guest.ts";
import { markOutcomeUnknown } from "#lifecycle/unknown-outcome.ts";
import type { Log } from "../../log.ts";
import { CallScope } from "./call-scope.ts";
import { remoteFiles } from "./remote-files.ts";
import { remotePorts } from "./remote-ports.ts";
import { remoteSessions } from "./remote-sessions.ts";
import { WorkerLink, type WorkerClient, type WorkerLinkOptions } from "./worker-link.ts";

export interface RemoteWorkerOptions extends WorkerLinkOptions {
  /** The version of this software, for the worker's log. */
  readonly version: string;
  readonly log: Log;
}

/** The deadline of a heartbeat: an answer takes microseconds, and a busy host delays it by seconds. */
const statusMs = 5000;

/** A worker's reply to a greeting. */
interface Greeting {
  readonly id: string;
  readonly description: WorkerDescription;
}

/**
 * A worker on another host. When its connection breaks, calls under way fail with `unavailable`, and the next call
 * connects again; the machines run on. Disposing closes the connection.
 */
export class RemoteWorker implements Worker, Disposable {
  readonly id: string;
  readonly #link: WorkerLink;
  readonly #version: string;
  readonly #log: Log;
  #description: WorkerDescription;
  /** Aborts when this object is disposed: lasting calls end with it. */
  readonly #ending = new AbortController();

  /**
   * Connects to the worker and greets it.
   * @throws `unavailable` when it does not answer, `incompatible` when it speaks no version that this server speaks
   */
  static async connect(options: RemoteWorkerOptions): Promise<RemoteWorker> {
    using link = new WorkerLink(options);
    return new RemoteWorker(options, await greet(link, options.version));
  }

  /** A worker that has been greeted before. It need not answer now. */
  constructor(options: RemoteWorkerOptions, { id, description }: Greeting) {
    this.id = id;
    this.#description = description;
    this.#link = new WorkerLink(options);
    this.#link.name = `worker ${id}`;
    this.#version = options.version;
    this.#log = options.log;
  }

  get description(): WorkerDescription {
    return this.#description;
  }

  /** Takes over the description that another server was given. */
  describe(description: WorkerDescription): void {
    this.#description = description;
  }

  /** Greets the worker again, which may run a newer version by now. */
  async greet(): Promise<void> {
    this.#description = (await greet(this.#link, this.#version)).description;
  }

  async startSandbox(
    request: StartSandbox,
    onProgress: (progress: Progress) => void,
    signal: AbortSignal,
  ): Promise<StartedSandbox> {
    signal.throwIfAborted();
    await this.#link.connect();
    return await this.#changing(signal, async (client, options) => {
      for await (const { event } of client.startSandbox(wire.startToWire(request), options)) {
        if (event.case === "progress") onProgress(wire.progressFromWire(event.value));
        else if (event.case === "started") return wire.startedFromWire(event.value);
      }
      throw new ConnectError(`it did not say how sandbox ${request.id} started`, Code.Unavailable);
    });
  }

  async stopSandbox(id: SandboxId): Promise<void> {
    await this.#link.ask((client, options) => client.stopSandbox({ sandboxId: id }, options));
  }

  async listSandboxes(): Promise<readonly HeldSandbox[]> {
    const { sandboxes } = await this.#link.ask((client, options) => client.listSandboxes({}, options));
    return sandboxes.map(wire.heldFromWire);
  }

  /** Waits across broken connections: the machine does not end with one. */
  async waitForEnd(id: SandboxId, signal: AbortSignal): Promise<SandboxEnd> {
    const request = { sandboxId: id };
    return await this.#lasting(signal, async (client, options) =>
      wire.endFromWire(await client.waitForEnd(request, options)),
    );
  }

  async rebootSandbox(id: SandboxId, signal: AbortSignal): Promise<void> {
    await this.#link.until(signal, (client, options) => client.rebootSandbox({ sandboxId: id }, options));
  }

  async powerCycleSandbox(id: SandboxId, signal: AbortSignal): Promise<void> {
    await this.#link.until(signal, (client, options) => client.powerCycleSandbox({ sandboxId: id }, options));
  }

  async scaleSandbox(id: SandboxId, size: SandboxSize, signal: AbortSignal): Promise<Scaled> {
    const request = { sandboxId: id, ...wire.sizeToWire(size) };
    const { done, because } = await this.#link.until(signal, (client, options) =>
      client.scaleSandbox(request, options),
    );
    return { done, ...(because === undefined ? {} : { because }) };
  }

  async setNetworkPolicy(id: SandboxId, policy: NetworkPolicy): Promise<void> {
    const request = { sandboxId: id, ...wire.policyToWire(policy) };
    await this.#link.ask((client, options) => client.setNetworkPolicy(request, options));
  }

  async setSecrets(id: SandboxId, secrets: SandboxSecrets): Promise<void> {
    const request = { sandboxId: id, secrets: wire.secretsToWire(secrets) };
    await this.#link.ask((client, options) => client.setSecrets(request, options));
  }

  async setEnvironment(id: SandboxId, envs: Readonly<Record<string, string>>): Promise<void> {
    await this.#link.ask((client, options) => client.setEnvironment({ sandboxId: id, envs: { ...envs } }, options));
  }

  async networkRefusals(id: SandboxId): Promise<readonly NetworkRefusal[]> {
    const reply = await this.#link.ask((client, options) => client.networkRefusals({ sandboxId: id }, options));
    return reply.refusals.map(wire.refusalFromWire);
  }

  async readConsole(id: SandboxId): Promise<string> {
    return (await this.#link.ask((client, options) => client.readConsole({ sandboxId: id }, options))).text;
  }

  guest(id: SandboxId): Guest {
    return {
      sessions: remoteSessions(this.#link, id, this.#log),
      files: remoteFiles(this.#link, id),
      ports: remotePorts(this.#link, id),
    };
  }

  async captureSandbox(
    id: SandboxId,
    { snapshotId, contents }: Capture,
    signal: AbortSignal,
  ): Promise<CapturedSnapshot> {
    const request = { sandboxId: id, snapshotId, disksOnly: contents === "disks" };
    const captured = await this.#link.until(signal, (client, options) => client.captureSandbox(request, options));
    return { sizeBytes: captured.sizeBytes, pausedMs: captured.pausedMs };
  }

  async hibernateSandbox(id: SandboxId, snapshotId: SnapshotId, signal: AbortSignal): Promise<CapturedSnapshot> {
    const request = { sandboxId: id, snapshotId };
    const captured = await this.#changing(signal, (client, options) => client.hibernateSandbox(request, options));
    return { sizeBytes: captured.sizeBytes, pausedMs: captured.pausedMs };
  }

  async findSnapshot(snapshotId: SnapshotId): Promise<StoredSnapshot | undefined> {
    const { sizeBytes } = await this.#link.ask((client, options) => client.findSnapshot({ snapshotId }, options));
    return sizeBytes === undefined ? undefined : { sizeBytes };
  }

  async removeSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#link.ask((client, options) => client.removeSnapshot({ snapshotId }, options));
  }

  async uploadSnapshot(snapshotId: SnapshotId, signal: AbortSignal): Promise<void> {
    await this.#link.until(signal, (client, options) => client.uploadSnapshot({ snapshotId }, options));
  }

  async removeStoredSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#link.ask((client, options) => client.removeStoredSnapshot({ snapshotId }, options));
  }

  async sweepStore(signal: AbortSignal): Promise<SweptStore> {
    const { objects, bytes } = await this.#link.until(signal, (client, options) => client.sweepStore({}, options));
    return { objects, bytes };
  }

  async measureDisk({ sandboxes, snapshots }: OwnedFiles): Promise<number> {
    const request = { sandboxIds: [...sandboxes], snapshotIds: [...snapshots] };
    return (await this.#link.ask((client, options) => client.measureDisk(request, options))).bytes;
  }

  async measureUse(counted: readonly string[]): Promise<readonly MachineUse[]> {
    const request = { counted: [...counted] };
    const { machines } = await this.#link.ask((client, options) => client.measureUse(request, options));
    return machines.map(({ sandboxId, process, cpuMs, egressBytes, ended }) => ({
      ...{ sandboxId: sandboxId as SandboxId, process, cpuMs, egressBytes, ended },
    }));
  }

  /** Listens across broken connections. */
  async *guestRequests(signal: AbortSignal): AsyncGenerator<GuestRequest> {
    while (!signal.aborted && !this.#ending.signal.aborted) {
      using scope = new CallScope(signal);
      try {
        for await (const message of this.#link.client.guestRequests({}, { signal: scope.signal })) {
          const request = wire.guestRequestFromWire(message);
          if (request !== undefined) yield request;
        }
      } catch (error) {
        const failure = this.#link.failure(error, signal);
        if (!isSandboxError(failure, "unavailable")) throw failure;
      }
      await sleep(this.#link.tuning.retryMs, undefined, { signal });
    }
  }

  async answerGuest(requestId: string, { status, body }: GuestAnswer): Promise<void> {
    const request = { requestId, status, bodyJson: JSON.stringify(body) };
    await this.#link.ask((client, options) => client.answerGuest(request, options));
  }

  async readyMachines(): Promise<ReadyMachinesState> {
    return wire.readyMachinesFromWire(await this.#link.ask((client, options) => client.readyMachines({}, options)));
  }

  /** The worker's status. The reply is its heartbeat, so the deadline is short. */
  async status(): Promise<WorkerStatus> {
    return wire.statusFromWire(await this.#link.ask((client, options) => client.status({}, options), statusMs));
  }

  [Symbol.dispose](): void {
    this.#ending.abort();
    this.#link[Symbol.dispose]();
  }

  /** Repeats a call as long as only its connection fails. */
  /**
   * Makes a call that changes a machine. Its error says when the worker may have finished it: the connection broke, or
   * the signal aborted, before the answer.
   */
  async #changing<T>(
    signal: AbortSignal,
    call: (client: WorkerClient, options: CallOptions) => Promise<T>,
  ): Promise<T> {
    try {
      return await this.#link.until(signal, call);
    } catch (error) {
      // Other operations share the signal's reason, and theirs may be known to have failed.
      if (signal.aborted) throw markOutcomeUnknown(errorFromWire(errorToWire(asSandboxError(error))));
      if (isSandboxError(error) && WorkerLink.isFromConnection(error)) throw markOutcomeUnknown(error);
      throw error;
    }
  }

  async #lasting<T>(signal: AbortSignal, call: (client: WorkerClient, options: CallOptions) => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await this.#link.until(signal, call);
      } catch (error) {
        if (signal.aborted || !isSandboxError(error, "unavailable")) throw error;
        if (this.#ending.signal.aborted)
          throw new SandboxError("canceled", `${this.#link.name} is not used any longer`);
        this.#log("info", "the connection broke during a wait on a worker: waiting again", {
          worker: this.id,
          ...describeError(error),
        });
      }
      await sleep(this.#link.tuning.retryMs, undefined, { signal });
    }
  }
}

async function greet(link: WorkerLink, version: string): Promise<Greeting> {
  const hello = await link.ask(
    (client, options) => client.hello({ protocolVersion, version }, options),
    link.tuning.connectMs,
  );
  if (hello.protocolVersion < minProtocolVersion) {
    const message = `${link.name} runs version ${hello.version}, which is too old for this server: update it`;
    throw new SandboxError("incompatible", message, { reason: "format" });
  }
  return {
    id: hello.workerId,
    description: wire.descriptionFromWire(hello.description),
  };
}
