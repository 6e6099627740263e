import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import type { Guest } from "@opensandbox/wire/worker/guest.ts";
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
  ReadyTemplate,
  Scaled,
  SandboxEnd,
  SandboxSecrets,
  SandboxSize,
  StartedSandbox,
  StartSandbox,
  StoredSnapshot,
  SweptStore,
  Worker,
  WorkerDescription,
} from "@opensandbox/wire/worker/worker.ts";
import type { Database } from "#database/database.ts";
import type { Placement, Start, WorkerReport } from "#lifecycle/placement.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { Servers } from "../servers/servers.ts";
import { describeFleet } from "./describe-fleet.ts";
import { regularly } from "../service/regularly.ts";
import { Drains } from "./drains.ts";
import { Evacuations } from "./evacuations.ts";
import { Member, type MemberWorker } from "./member.ts";
import { type Candidate, type Choice, neededMib, place } from "./place.ts";
import { type Recovered, recoverLost, recoverStored } from "./recover-lost.ts";
import { reconcileMember, reconcileOn } from "./reconcile-member.ts";
import { routedGuest } from "./routed-guest.ts";
import { type Uploader, Uploads } from "./uploads.ts";
import { UploadStore } from "./upload-store.ts";
import { type ListedWorker, WorkerStore } from "./worker-store.ts";

export interface FleetOptions {
  readonly database: Database;
  readonly clock: Clock;
  readonly log: Log;
  readonly servers: Servers;
  /** How this server finds out who is at an address. Absent: no worker can join. */
  readonly greet?: ((url: string) => Promise<Greeting>) | undefined;
  /** A worker that has been greeted before. It need not answer now. */
  readonly workerAt: (url: string, greeting: Greeting) => MemberWorker;
  readonly heartbeatMs?: number | undefined;
  /** How often due uploads are read, in milliseconds. */
  readonly uploadsMs?: number | undefined;
  /** How often the object store is swept, in milliseconds. */
  readonly sweepsMs?: number | undefined;
  /**
   * How long a worker with a lease may be silent before its sandboxes continue elsewhere from what is stored of them, in
   * milliseconds; at least its lease and {@link FleetOptions.fenceMs}. Default: 0, only when an operator says so.
   */
  readonly lostAfterMs?: number | undefined;
  /** For tests. Default: 15 s. */
  readonly fenceMs?: number | undefined;
}

export type Greeting = Pick<MemberWorker, "id" | "description">;

/** Placements that are kept for {@link Fleet.explain}. */
const maxExplained = 10_000;

/**
 * How long after its lease a worker has surely paused its machines: a question whose answer was lost may have renewed the
 * lease a few seconds after the last answer.
 */
const defaultFenceMs = 15_000;

/** How often silent workers are looked at. */
const lookForLossMs = 1000;

/**
 * With less of its disk free, a worker gives up local copies of stored snapshots, the oldest first. New sandboxes are
 * refused below 0.05.
 */
const crowdedDiskShare = 0.15;

/** How often the object store is swept. Listing a million objects takes minutes, and what goes is weeks old. */
const defaultSweepMs = 6 * 3_600_000;

/** How often workers that are being drained are looked at. */
const defaultDrainMs = 1000;

/** How often a server reads what the one on duty has heard of the workers, and who has joined or left. */
const refreshMs = 1000;

interface MemberUse {
  readonly isCordoned: boolean;
  readonly isDraining: boolean;
}

/** What a worker whose host is about to stop still has. */
export interface Evacuated {
  /** Sandboxes that run. */
  readonly sandboxes: number;
  /** Snapshots that only the worker has; 0 without an object store, which none of them can reach. */
  readonly snapshots: number;
  /** Whether new sandboxes were kept away from the worker before. */
  readonly wasCordoned: boolean;
}

/** The choice of a worker, and the reasons. */
export interface Explanation extends Choice {
  /** What would be chosen now: this server did not place the sandbox. */
  readonly isPresent?: true;
}

/** A worker, for an operator. */
export interface MemberReport extends WorkerReport {
  readonly url: string;
  /** Of a worker that is being drained: sandboxes, and snapshots that only it has. */
  readonly left?: { readonly sandboxes: number; readonly snapshots: number };
}

/**
 * The workers of a fleet behind the interface of one. A call for a sandbox goes to the worker that its row names now: the
 * row is read for each call, so no route can be stale after a hibernation, a wake or a move.
 */
export class Fleet implements Worker, Placement, AsyncDisposable {
  /** The id of no worker. Rows that no worker holds, such as builds of images, carry it. */
  readonly id = "fleet";
  readonly #options: FleetOptions;
  readonly #store: WorkerStore;
  readonly #uploadRows: UploadStore;
  readonly #uploads: Uploads;
  readonly #members = new Map<string, Member>();
  readonly #choices = new Map<SandboxId, Choice>();
  #context: SandboxContext | undefined;
  #drains: Drains | undefined;
  readonly #evacuations = new Evacuations();
  readonly #ending = new AbortController();
  readonly #sweeps: AsyncDisposable;
  readonly #refreshes: AsyncDisposable | undefined;
  readonly #losses: AsyncDisposable | undefined;
  /** Rises with every change of the members by this server, so that a read from before it is discarded. */
  #changes = 0;
  /** Workers whose machines this server does not watch yet. */
  readonly #unwatched = new Set<string>();
  /** Wakes listeners of guests when a worker has joined. */
  #joined = Promise.withResolvers<void>();

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#store = new WorkerStore(options.database);
    this.#uploadRows = new UploadStore(options.database);
    const { clock, log, servers, uploadsMs: everyMs } = options;
    this.#uploads = new Uploads({
      ...{ store: this.#uploadRows, clock, log, everyMs },
      uploaders: () => this.#uploaders(),
      isOnDuty: () => servers.isOnDuty,
    });
    const { sweepsMs = defaultSweepMs } = options;
    this.#sweeps = regularly({ what: "sweeping the object store", everyMs: sweepsMs, log }, async () => {
      if (servers.isOnDuty) await this.sweepStore(this.#ending.signal);
    });
    const { lostAfterMs = 0 } = options;
    const looking = { what: "continuing the sandboxes of lost workers", everyMs: lookForLossMs, log };
    this.#losses = lostAfterMs === 0 ? undefined : regularly(looking, () => this.#recoverSilent(lostAfterMs));
    const refreshing = { what: "reading the workers that other servers know", everyMs: refreshMs, log };
    this.#refreshes = servers.id === undefined ? undefined : regularly(refreshing, () => this.#refresh());
  }

  /** Begins to talk to the workers of the rows. Each is reconciled with its rows when it first answers. */
  async start(context: SandboxContext): Promise<void> {
    this.#context = context;
    for (const listed of await this.#store.list()) this.#addListed(listed);
    this.#drains = new Drains({
      ...{ context, workers: this.#store, everyMs: this.#options.uploadsMs ?? defaultDrainMs },
      draining: () => this.#allOnDuty().filter(({ isDraining }) => isDraining),
      crowded: () => this.#allOnDuty().filter(({ status }) => (status?.freeDiskShare ?? 1) < crowdedDiskShare),
    });
  }

  /** Adds a worker, or stores its new address. @throws `unavailable` when this server does not reach it there */
  async join(url: string): Promise<string> {
    const { greet } = this.#options;
    if (greet === undefined) throw new SandboxError("not_supported", "no worker can join this fleet");
    const { id, description } = await greet(url);
    const known = this.#members.get(id);
    this.#changes += 1;
    await this.#store.put({ id, url, description }, new Date(this.#options.clock.now()));
    if (known?.url === url) return id;
    await known?.[Symbol.asyncDispose]();
    const { isCordoned = false, isDraining = false } = known ?? {};
    this.#add(this.#options.workerAt(url, { id, description }), { url, isCordoned, isDraining });
    this.#options.log("info", known === undefined ? "a worker has joined" : "a worker has a new address", {
      worker: id,
      url,
    });
    return id;
  }

  /** Keeps new sandboxes away from a worker, or allows them again. @throws `not_found` */
  async cordon(workerId: string, isCordoned: boolean): Promise<void> {
    const member = this.#joinedMember(workerId);
    await this.#use(member, { isCordoned, isDraining: isCordoned && member.isDraining });
  }

  /**
   * Cordons a worker, moves its sandboxes to others and stores its snapshots, until it is let in again.
   * @throws `not_supported` when it has no object store
   */
  async drain(workerId: string): Promise<void> {
    const member = this.#joinedMember(workerId);
    this.#storeOf(workerId);
    await this.#use(member, { isCordoned: true, isDraining: true });
  }

  /**
   * Cordons a worker whose host is about to stop, and hibernates its sandboxes. Returns at once with what is left: the
   * worker asks again until that is nothing. @throws `not_found`
   */
  async evacuate(workerId: string): Promise<Evacuated> {
    const member = this.#joinedMember(workerId);
    const context = this.#context;
    if (context === undefined) throw new SandboxError("unavailable", "the server is starting");
    const wasCordoned = member.isCordoned;
    if (!wasCordoned) await this.#use(member, { isCordoned: true, isDraining: false });
    const sandboxes = await this.#evacuations.begin(context, workerId);
    const hasStore = member.worker.description.objectStore !== undefined;
    return { sandboxes, snapshots: hasStore ? await this.#uploadRows.notStoredOn(workerId) : 0, wasCordoned };
  }

  /**
   * Removes a worker that does not answer. `isLost`: its host does not run any longer, and its sandboxes continue from
   * what is stored of them.
   * @throws `wrong_state` when it answers, or when it has something that would be lost and `isLost` is not set
   */
  async remove(workerId: string, { isLost }: { readonly isLost: boolean }): Promise<Recovered> {
    const member = this.#joinedMember(workerId);
    const context = this.#context;
    if (context === undefined) throw new SandboxError("unavailable", "the server is starting");
    const refuse = (state: string, message: string): never => {
      throw new SandboxError("wrong_state", message, { resource: "worker", state, allowed: ["silent"] });
    };
    const { servers } = this.#options;
    if (!servers.isOnDuty) {
      const message = `another server watches worker ${workerId} and can tell whether it is gone: ask that one`;
      throw new SandboxError("unavailable", message);
    }
    if (member.isUp) refuse("up", `worker ${workerId} answers: drain it and stop its process first`);
    const held = await context.stores.sandboxes.listHeldBy(workerId);
    const snapshots = await this.#uploadRows.notStoredOn(workerId);
    if (!isLost && held.length + snapshots > 0) {
      const what = `${held.length} sandboxes are on worker ${workerId}, and ${snapshots} snapshots are stored nowhere else`;
      refuse("silent", `${what}: start it again and drain it, or declare it lost with --lost when its host is off`);
    }
    const unsafeMs = this.#unsafeMsOf(member);
    if (isLost && unsafeMs > 0) {
      const inSeconds = Math.ceil(unsafeMs / 1000);
      refuse(
        "silent",
        `the machines of worker ${workerId} may still run: it pauses them by itself within ${inSeconds} s`,
      );
    }
    this.#changes += 1;
    this.#members.delete(workerId);
    await member[Symbol.asyncDispose]();
    const recovered = await recoverLost(context, this.#uploadRows, workerId);
    await this.#store.remove(workerId);
    this.#options.log("info", "a worker is removed from the fleet", { worker: workerId, ...recovered });
    return recovered;
  }

  /** How long the machines of a silent worker with a lease may still run, in milliseconds. */
  #unsafeMsOf({ worker, silentMs }: Member): number {
    const { leaseSeconds } = worker.description;
    const { fenceMs = defaultFenceMs } = this.#options;
    return leaseSeconds === undefined ? 0 : leaseSeconds * 1000 + fenceMs - silentMs;
  }

  /** Once for each silence: what is stored of its sandboxes does not grow while a worker is silent. */
  async #recoverSilent(lostAfterMs: number): Promise<void> {
    const context = this.#context;
    if (context === undefined) return;
    for (const member of this.#options.servers.isOnDuty ? this.#members.values() : []) {
      const { id, worker, isUp, isRecovered, silentMs } = member;
      const hasLease = worker.description.leaseSeconds !== undefined;
      // Without a lease its machines may run on behind a broken network.
      if (isUp || isRecovered || !hasLease || silentMs < lostAfterMs || this.#unsafeMsOf(member) > 0) continue;
      const recovered = await recoverStored(context, this.#uploadRows, id);
      member.isRecovered = true;
      this.#options.log("warn", "a worker is lost: its sandboxes continue from what is stored of them", {
        worker: id,
        ...recovered,
      });
    }
  }

  async #use(member: Member, use: MemberUse): Promise<void> {
    this.#changes += 1;
    await this.#store.setUse(member.id, use);
    Object.assign(member, use);
  }

  /**
   * Why this server placed a sandbox where it is, or refused it. Of a sandbox that another server placed, or an earlier
   * one: what would be chosen for it now.
   * @throws `not_found`
   */
  async explain(id: SandboxId): Promise<Explanation> {
    const choice = this.#choices.get(id);
    if (choice !== undefined) return choice;
    const sandbox = await this.#context?.stores.sandboxes.find(id);
    if (sandbox === undefined) {
      throw new SandboxError("not_found", `there is no sandbox ${id}`, { resource: "sandbox", id });
    }
    const { image, memoryMib, hibernationSnapshotId: snapshotId } = sandbox;
    const { choice: present } = await this.#choose({ id, image, memoryMib, snapshotId });
    return { ...present, isPresent: true };
  }

  async report(): Promise<MemberReport[]> {
    const counts = await this.#context?.stores.sandboxes.countHeld();
    const reportOf = async (member: Member): Promise<MemberReport> => {
      const { id, url, isUp, isCordoned, isDraining, seenAt, status, worker } = member;
      const { held = 0, running = 0 } = counts?.get(id) ?? {};
      const left = { sandboxes: held, snapshots: await this.#uploadRows.notStoredOn(id) };
      return {
        ...{ id, url, state: isUp ? "up" : "silent", cordoned: isCordoned, draining: isDraining },
        ...(isDraining ? { left } : {}),
        ...(seenAt === undefined ? {} : { seenAt: seenAt.toISOString() }),
        hypervisor: worker.description.hypervisor,
        ...(status === undefined
          ? {}
          : {
              cpuModel: status.cpuModel,
              freeMemoryMib: status.freeMemoryMib,
              totalMemoryMib: status.totalMemoryMib,
              freeDiskPercent: Math.round(status.freeDiskShare * 100),
            }),
        sandboxes: running,
      };
    };
    return await Promise.all([...this.#members.values()].map(reportOf));
  }

  get description(): WorkerDescription {
    return describeFleet([...this.#members.values()].map(({ worker }) => worker.description));
  }

  // Placement

  includes(workerId: string): boolean {
    return this.#members.has(workerId);
  }

  holderOf({ workerId }: Pick<Sandbox, "workerId">): string | undefined {
    return this.includes(workerId) ? workerId : undefined;
  }

  async choose(start: Start): Promise<string> {
    const { choice, snapshotOn } = await this.#choose(start);
    this.#remember(start.id, choice);
    if (choice.workerId !== undefined) return choice.workerId;
    throw this.#refusal(choice, { memoryMib: start.memoryMib, snapshotOn });
  }

  /** The choice, and the workers with the snapshot if only they can start the sandbox. */
  async #choose({
    image,
    memoryMib,
    snapshotId,
    move,
  }: Omit<Start, "vcpus">): Promise<{ readonly choice: Choice; readonly snapshotOn: readonly string[] | undefined }> {
    if (move?.to !== undefined) this.#joinedMember(move.to);
    // A sandbox that is to move has no snapshot yet.
    const copies = move === undefined ? undefined : [];
    const snapshotOn = snapshotId === undefined ? copies : await this.#store.workersWith(snapshotId);
    const storedIn =
      snapshotId === undefined ? move && this.#storeOf(move.from) : (await this.#uploadRows.find(snapshotId))?.store;
    // A cordon gives way only where no other worker can start the sandbox.
    const chooseFrom = (isBound: (member: Member) => boolean): Choice => {
      const all = [...this.#members.values()].map((member) => candidateOf(member, image, isBound(member)));
      const wish = { memoryMib, storedIn, avoid: move?.from, only: move?.to };
      return place(all, { ...wish, ...(snapshotOn === undefined ? {} : { snapshotOn }) });
    };
    const free = chooseFrom(() => false);
    const choice =
      free.workerId === undefined ? chooseFrom((member) => snapshotOn?.includes(member.id) === true) : free;
    return { choice, snapshotOn: storedIn === undefined ? snapshotOn : undefined };
  }

  // Worker: calls for one sandbox

  async startSandbox(
    request: StartSandbox,
    onProgress: (progress: Progress) => void,
    signal: AbortSignal,
  ): Promise<StartedSandbox> {
    const member = await this.#memberOf(request.id);
    const starting = { neededMib: neededMib(request.memoryMib) };
    member.starting.add(starting);
    try {
      // The worker may fetch it, and its copy must then be removed with the others.
      if (request.from.kind === "snapshot") await this.#store.addCopy(request.from.snapshotId, member.id);
      const started = await member.worker.startSandbox(request, onProgress, signal);
      const { from } = request;
      if (from.kind === "image") member.templates.add(from.image);
      return started;
    } finally {
      member.starting.delete(starting);
    }
  }

  async stopSandbox(id: SandboxId): Promise<void> {
    await (await this.#memberOf(id)).worker.stopSandbox(id);
  }

  async waitForEnd(id: SandboxId, signal: AbortSignal): Promise<SandboxEnd> {
    return await this.#known(await this.#workerIdOf(id)).worker.waitForEnd(id, signal);
  }

  async rebootSandbox(id: SandboxId, signal: AbortSignal): Promise<void> {
    await (await this.#memberOf(id)).worker.rebootSandbox(id, signal);
  }

  async powerCycleSandbox(id: SandboxId, signal: AbortSignal): Promise<void> {
    await (await this.#memberOf(id)).worker.powerCycleSandbox(id, signal);
  }

  async scaleSandbox(id: SandboxId, size: SandboxSize, signal: AbortSignal): Promise<Scaled> {
    return await (await this.#memberOf(id)).worker.scaleSandbox(id, size, signal);
  }

  async setNetworkPolicy(id: SandboxId, policy: NetworkPolicy): Promise<void> {
    await (await this.#memberOf(id)).worker.setNetworkPolicy(id, policy);
  }

  async setSecrets(id: SandboxId, secrets: SandboxSecrets): Promise<void> {
    await (await this.#memberOf(id)).worker.setSecrets(id, secrets);
  }

  async setEnvironment(id: SandboxId, envs: Readonly<Record<string, string>>): Promise<void> {
    await (await this.#memberOf(id)).worker.setEnvironment(id, envs);
  }

  async networkRefusals(id: SandboxId): Promise<readonly NetworkRefusal[]> {
    return await (await this.#memberOf(id)).worker.networkRefusals(id);
  }

  async readConsole(id: SandboxId): Promise<string> {
    return await (await this.#memberOf(id)).worker.readConsole(id);
  }

  guest(id: SandboxId): Guest {
    return routedGuest(async () => (await this.#memberOf(id)).worker.guest(id));
  }

  /** The copy is recorded first, so that no crash leaves a snapshot that nothing removes. */
  async captureSandbox(id: SandboxId, request: Capture, signal: AbortSignal): Promise<CapturedSnapshot> {
    const { worker } = await this.#memberOf(id);
    await this.#store.addCopy(request.snapshotId, worker.id);
    return await worker.captureSandbox(id, request, signal);
  }

  async hibernateSandbox(id: SandboxId, snapshotId: SnapshotId, signal: AbortSignal): Promise<CapturedSnapshot> {
    const { worker } = await this.#memberOf(id);
    await this.#store.addCopy(snapshotId, worker.id);
    return await worker.hibernateSandbox(id, snapshotId, signal);
  }

  // Worker: calls for a snapshot

  async findSnapshot(snapshotId: SnapshotId): Promise<StoredSnapshot | undefined> {
    for (const workerId of await this.#store.workersWith(snapshotId)) {
      const found = await this.#up(workerId).worker.findSnapshot(snapshotId);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async removeSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#uploads.cancel(snapshotId);
    await this.removeStoredSnapshot(snapshotId);
    for (const workerId of await this.#store.workersWith(snapshotId)) {
      await this.#up(workerId).worker.removeSnapshot(snapshotId);
      await this.#store.removeCopy(snapshotId, workerId);
    }
    await this.#uploadRows.remove(snapshotId);
  }

  async uploadSnapshot(snapshotId: SnapshotId, signal: AbortSignal): Promise<void> {
    await this.#uploads.ensure(snapshotId, signal);
  }

  /** @throws `unavailable` when no worker with the object store answers */
  async removeStoredSnapshot(snapshotId: SnapshotId): Promise<void> {
    const upload = await this.#uploadRows.find(snapshotId);
    if (upload === undefined || (upload.state === "local" && upload.attempts === 0)) return;
    // An upload whose answer was lost may have succeeded.
    const uploader = this.#uploaders().find(({ worker, store }) =>
      upload.store === undefined ? worker.id === upload.workerId : store === upload.store,
    );
    if (uploader === undefined) {
      const message = `no worker with the object store of snapshot ${snapshotId} answers, so it stays there`;
      throw new SandboxError("unavailable", message);
    }
    await uploader.worker.removeStoredSnapshot(snapshotId);
  }

  /** Each object store is swept by one worker. */
  async sweepStore(signal: AbortSignal): Promise<SweptStore> {
    const byStore = new Map(this.#uploaders().map((uploader) => [uploader.store, uploader]));
    let [objects, bytes] = [0, 0];
    for (const { worker, store } of byStore.values()) {
      const swept = await worker.sweepStore(signal);
      if (swept.objects > 0) this.#options.log("info", "objects that nothing needs are removed", { store, ...swept });
      objects += swept.objects;
      bytes += swept.bytes;
    }
    return { objects, bytes };
  }

  // Worker: calls for all workers

  async listSandboxes(): Promise<readonly HeldSandbox[]> {
    return (await Promise.all(this.#allUp().map(({ worker }) => worker.listSandboxes()))).flat();
  }

  /** Counts the workers that answer. A silent worker's files cannot be counted, and must not fail the whole. */
  async measureDisk(owned: OwnedFiles): Promise<number> {
    const measured = await Promise.all(this.#allUp().map(({ worker }) => worker.measureDisk(owned)));
    return measured.reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Asks the workers that answer. One that fails repeats its numbers in the next round. */
  async measureUse(counted: readonly string[]): Promise<readonly MachineUse[]> {
    const { log } = this.#options;
    const measured = this.#allUp().map(async ({ id, worker }) => {
      try {
        return await worker.measureUse(counted);
      } catch (error) {
        log("warn", "a worker does not say what its machines have used", { worker: id, ...describeError(error) });
        return [];
      }
    });
    return (await Promise.all(measured)).flat();
  }

  async readyMachines(): Promise<ReadyMachinesState> {
    const states = await Promise.all(this.#allUp().map(({ worker }) => worker.readyMachines()));
    const sum = (name: "wanted" | "ready"): number => states.reduce((total, state) => total + state[name], 0);
    return { wanted: sum("wanted"), ready: sum("ready"), templates: mergeTemplates(states) };
  }

  /** Requests from the guests of every worker, including workers that join later. */
  async *guestRequests(signal: AbortSignal): AsyncGenerator<GuestRequest> {
    const queue: GuestRequest[] = [];
    let changed = Promise.withResolvers<void>();
    const listened = new Set<MemberWorker>();
    const listen = async (worker: MemberWorker): Promise<void> => {
      for await (const request of worker.guestRequests(signal)) {
        queue.push({ ...request, requestId: `${worker.id}/${request.requestId}` });
        changed.resolve();
      }
    };
    const onAbort = (): void => changed.resolve();
    signal.addEventListener("abort", onAbort);
    while (!signal.aborted) {
      for (const { worker } of this.#members.values()) {
        if (listened.has(worker)) continue;
        listened.add(worker);
        listen(worker).catch((error: unknown) => {
          listened.delete(worker);
          if (signal.aborted) return;
          this.#options.log("warn", "cannot listen to requests of guests", {
            worker: worker.id,
            ...describeError(error),
          });
        });
      }
      await Promise.race([changed.promise, this.#joined.promise]);
      changed = Promise.withResolvers();
      yield* queue.splice(0);
    }
    signal.removeEventListener("abort", onAbort);
  }

  async answerGuest(requestId: string, answer: GuestAnswer): Promise<void> {
    const [workerId = "", ...rest] = requestId.split("/");
    await this.#up(workerId).worker.answerGuest(rest.join("/"), answer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort(new SandboxError("unavailable", "the server is shutting down"));
    await this.#sweeps[Symbol.asyncDispose]();
    await this.#refreshes?.[Symbol.asyncDispose]();
    await this.#losses?.[Symbol.asyncDispose]();
    await this.#drains?.[Symbol.asyncDispose]();
    await this.#uploads[Symbol.asyncDispose]();
    await Promise.all([...this.#members.values()].map((member) => member[Symbol.asyncDispose]()));
  }

  #add(worker: MemberWorker, { url, isCordoned, isDraining }: MemberUse & { readonly url: string }): void {
    const { clock, log, servers, heartbeatMs } = this.#options;
    this.#unwatched.add(worker.id);
    const reconcileNow = async (): Promise<void> => {
      if (this.#context === undefined) return;
      await reconcileMember(this.#context, { worker, isFirst: this.#unwatched.has(worker.id) });
      this.#unwatched.delete(worker.id);
      // Comes after the reconciliation, which reads the previous heartbeat.
      await this.#context.stores.heartbeats.beat(worker.id, clock.now());
    };
    const member = new Member({
      ...{ id: worker.id, url, worker, isCordoned, isDraining, clock, log, servers, heartbeatMs },
      publish: (heard) => this.#store.publish(worker.id, heard),
      onReturn: async () => {
        await this.#store.describe(worker.id, worker.description);
        await reconcileNow();
      },
      onCheck: () => reconcileNow(),
    });
    this.#members.set(worker.id, member);
    this.#joined.resolve();
    this.#joined = Promise.withResolvers();
  }

  #addListed({ id, url, description, isCordoned, isDraining, ...heard }: ListedWorker): void {
    this.#add(this.#options.workerAt(url, { id, description }), { url, isCordoned, isDraining });
    this.#members.get(id)?.observe(heard);
  }

  /** Brings the members in line with the rows, which other servers change. */
  async #refresh(): Promise<void> {
    if (this.#context === undefined) return;
    const before = this.#changes;
    const listed = await this.#store.list();
    // This server has changed the members meanwhile.
    if (this.#changes !== before) return;
    const gone = new Set(this.#members.keys());
    for (const row of listed) {
      gone.delete(row.id);
      const member = this.#members.get(row.id);
      if (member?.url === row.url) {
        member.isCordoned = row.isCordoned;
        member.isDraining = row.isDraining;
        member.observe(row);
        if (!this.#options.servers.isOnDuty) member.worker.describe(row.description);
        continue;
      }
      this.#members.delete(row.id);
      this.#addListed(row);
      await member?.[Symbol.asyncDispose]();
    }
    for (const id of gone) {
      const member = this.#members.get(id);
      this.#members.delete(id);
      await member?.[Symbol.asyncDispose]();
    }
  }

  /** Brings the row of a sandbox whose gate is held in line with its worker. */
  async reconcile(id: SandboxId): Promise<void> {
    const context = this.#context;
    const sandbox = await context?.stores.sandboxes.find(id);
    if (context === undefined || sandbox === undefined || sandbox.workerId === "") return;
    await reconcileOn(context, this.#up(sandbox.workerId).worker, id);
  }

  /** Has every worker reconciled as when it first answered, and its machines watched. */
  reconcileAll(): void {
    for (const [id, member] of this.#members) {
      this.#unwatched.add(id);
      member.reconcileAgain();
    }
  }

  async #workerIdOf(id: SandboxId): Promise<string> {
    const sandbox = await this.#context?.stores.sandboxes.find(id);
    if (sandbox !== undefined && sandbox.workerId !== "") return sandbox.workerId;
    throw new SandboxError("not_found", `sandbox ${id} runs on no worker`, { resource: "sandbox", id });
  }

  async #memberOf(id: SandboxId): Promise<Member> {
    return this.#up(await this.#workerIdOf(id));
  }

  #known(workerId: string): Member {
    const member = this.#members.get(workerId);
    if (member !== undefined) return member;
    throw new SandboxError("unavailable", `worker ${workerId} does not belong to this fleet`);
  }

  /** @throws `unavailable` for a worker that does not answer: its sandboxes are kept */
  #up(workerId: string): Member {
    const member = this.#known(workerId);
    if (member.isUp) return member;
    throw silent(member);
  }

  /** @throws `not_found` */
  #joinedMember(workerId: string): Member {
    const member = this.#members.get(workerId);
    if (member !== undefined) return member;
    throw new SandboxError("not_found", `worker ${workerId} has not joined`, { resource: "worker", id: workerId });
  }

  /** @throws `not_supported` for a worker without an object store */
  #storeOf(workerId: string): string {
    const { objectStore } = this.#known(workerId).worker.description;
    if (objectStore !== undefined) return objectStore;
    const message = `worker ${workerId} has no object store, so its sandboxes cannot leave it: set OPENSANDBOX_OBJECT_STORE on the workers`;
    throw new SandboxError("not_supported", message);
  }

  #uploaders(): Uploader[] {
    return this.#allUp().flatMap(({ worker }) => {
      const { objectStore: store } = worker.description;
      return store === undefined ? [] : [{ worker, store }];
    });
  }

  #allOnDuty(): Member[] {
    return this.#options.servers.isOnDuty ? this.#allUp() : [];
  }

  #allUp(): Member[] {
    return [...this.#members.values()].filter(({ isUp }) => isUp);
  }

  #remember(id: SandboxId, choice: Choice): void {
    this.#choices.delete(id);
    this.#choices.set(id, choice);
    const [oldest] = this.#choices.keys();
    if (this.#choices.size > maxExplained && oldest !== undefined) this.#choices.delete(oldest);
  }

  #refusal(
    { verdicts }: Choice,
    { memoryMib, snapshotOn }: { readonly memoryMib: number; readonly snapshotOn: readonly string[] | undefined },
  ): SandboxError {
    if (this.#members.size === 0) {
      return new SandboxError("unavailable", "no worker has joined this fleet: run 'osb worker join' on a host");
    }
    const holder = snapshotOn?.map((id) => this.#members.get(id)).find((member) => member?.isUp === false);
    if (holder !== undefined) return silent(holder);
    if (snapshotOn?.length === 0) {
      return new SandboxError(
        "unavailable",
        "neither a worker nor the object store has the snapshot: it was lost with its worker",
      );
    }
    const words = verdicts.map(({ workerId, reason }) => `${workerId}: ${reason}`).join("; ");
    const message = `no worker can take a sandbox with ${memoryMib} MiB: ${words}`;
    const freeMib = Math.max(0, ...this.#allUp().map((member) => freeMibOf(member)));
    return new SandboxError("no_capacity", message, { resource: "memory", needMib: neededMib(memoryMib), freeMib });
  }
}

function silent({ id, seenAt }: Member): SandboxError {
  const since = seenAt === undefined ? "since this server started" : `since ${seenAt.toISOString()}`;
  const message = `worker ${id} has not answered ${since}: its sandboxes are kept, try again when it is back`;
  return new SandboxError("unavailable", message);
}

/** @param isBound whether the worker has the snapshot and no other one can start the sandbox: a cordon does not exclude it */
function candidateOf(member: Member, image: string, isBound: boolean): Candidate {
  const { id, isUp, isCordoned, status, starting } = member;
  // One template of an image serves every shape, except under Firecracker.
  const ofImage = status?.readyMachines.templates.filter((each) => each.image === image) ?? [];
  return {
    id,
    refusal: isUp ? (isCordoned && !isBound ? "it is cordoned" : undefined) : "it does not answer",
    freeMemoryMib: freeMibOf(member),
    totalMemoryMib: status?.totalMemoryMib ?? 0,
    freeDiskShare: status?.freeDiskShare ?? 0,
    starting: starting.size,
    ready: ofImage.reduce((sum, { ready }) => sum + ready, 0),
    hasTemplate: ofImage.length > 0 || member.templates.has(image),
    objectStore: member.worker.description.objectStore,
  };
}

/** Free memory of the worker, less the starts that its last status does not count. */
function freeMibOf({ status, starting }: Member): number {
  const promised = [...starting].reduce((sum, each) => sum + each.neededMib, 0);
  return Math.max(0, (status?.freeMemoryMib ?? 0) - promised);
}

/** The templates of all workers, those of equal image and shape as one. */
function mergeTemplates(states: readonly ReadyMachinesState[]): ReadyTemplate[] {
  const byShape = Map.groupBy(
    states.flatMap(({ templates }) => templates),
    ({ image, memoryMib, vcpus }) => `${image} ${memoryMib} ${vcpus}`,
  );
  return [...byShape.values()].flatMap((same) => {
    const [first] = same;
    if (first === undefined) return [];
    const sum = (name: "wanted" | "ready"): number => same.reduce((total, each) => total + each[name], 0);
    return [{ ...first, wanted: sum("wanted"), ready: sum("ready") }];
  });
}
