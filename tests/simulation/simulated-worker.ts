import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import type { WorkerStatus } from "@opensandbox/wire/worker/status.ts";
import type {
  Capture,
  CapturedSnapshot,
  HeldSandbox,
  SandboxEnd,
  StartedSandbox,
  StartSandbox,
  StoredSnapshot,
  Worker,
  WorkerDescription,
} from "@opensandbox/wire/worker/worker.ts";
import { neededMib } from "../../packages/control-plane/src/fleet/place.ts";
import { markOutcomeUnknown } from "../../packages/control-plane/src/lifecycle/unknown-outcome.ts";
import { TestHost, type TestMachine } from "../../packages/control-plane/src/testing/test-host.ts";
import { TestWorker } from "../../packages/control-plane/src/testing/test-worker.ts";
import { Lease } from "../../packages/worker/src/serve/lease.ts";

export const leaseSeconds = 20;
const objectStore = "file:///simulated";

export interface SimulatedWorkerOptions {
  readonly id: string;
  readonly memoryMib: number;
  readonly stored: TestHost["stored"];
  /** How long the next step takes, in milliseconds of the simulated clock. */
  readonly latencyMs: () => number;
  /** Whether the object store answers. */
  readonly storeAnswers: () => boolean;
}

/**
 * A worker as a server sees it over a network: calls take time, their answers can be lost, and the process and its host
 * can end. Machines are entries of a list. Its lease is the real one.
 */
export class SimulatedWorker extends TestWorker implements Disposable {
  readonly #options: SimulatedWorkerOptions;
  #isCut = false;
  #isDown = false;
  /** Rises when the process or its host ends: steps under way then have no effect. */
  #life = 0;
  #isFenced = false;
  /** Of starts that are under way, in MiB. */
  #promisedMib = 0;
  /** Of the lease, by a server; none since its host booted. */
  #renewedMs: number | undefined;
  #lease: Lease | undefined;
  /** Rejects when the connection breaks. */
  #broken = Promise.withResolvers<never>();

  constructor(options: SimulatedWorkerOptions) {
    super(options.id, new TestHost(new Map(), options.stored));
    this.#options = options;
    this.description = { ...this.description, objectStore, leaseSeconds };
    this.#broken.promise.catch(() => {});
    this.#startLease();
  }

  /** Machines that may change something now. */
  get acting(): SandboxId[] {
    return this.#isFenced ? [] : this.live;
  }

  get isDown(): boolean {
    return this.#isDown;
  }

  get isReachable(): boolean {
    return !this.#isCut && !this.#isDown;
  }

  get usedMib(): number {
    return [...this.host.machines.values()]
      .filter(({ running }) => running)
      .reduce((sum, { request }) => sum + neededMib(request.memoryMib), 0);
  }

  get memoryMib(): number {
    return this.#options.memoryMib;
  }

  cut(): void {
    this.#isCut = true;
    this.#break();
  }

  mend(): void {
    this.#isCut = false;
  }

  /** Ends the process; its machines run on. */
  async kill(): Promise<void> {
    this.#isDown = true;
    this.#life += 1;
    this.#break();
    await this.#lease?.[Symbol.asyncDispose]();
    this.#lease = undefined;
  }

  /** Ends the host: no machine is left, and disks stay. */
  async loseHost(): Promise<void> {
    await this.kill();
    this.#isFenced = false;
    this.#renewedMs = undefined;
    for (const [id, { running }] of this.host.machines) if (running) this.host.crash(id, "the host ended");
  }

  start(): void {
    if (!this.#isDown) return;
    this.#isDown = false;
    const leftMs =
      this.#renewedMs === undefined ? undefined : leaseSeconds * 1000 - (performance.now() - this.#renewedMs);
    // It adopts its machines paused.
    if (leftMs !== undefined && leftMs <= 0) this.#isFenced = true;
    this.#startLease(leftMs);
  }

  async end(): Promise<void> {
    await this.#lease?.[Symbol.asyncDispose]();
  }

  async status(): Promise<WorkerStatus> {
    return await this.#call(async () => {
      this.#lease?.asked();
      return await Promise.resolve({
        workerId: this.id,
        instance: `${this.id} ${this.#life}`,
        freeMemoryMib: Math.max(0, this.memoryMib - this.usedMib),
        totalMemoryMib: this.memoryMib,
        freeDiskShare: 0.5,
        cpuModel: "simulated",
        readyMachines: { wanted: 0, ready: 0, templates: [] },
      });
    });
  }

  async greet(): Promise<void> {
    await this.#call(async () => await Promise.resolve(this.#lease?.greeted()));
  }

  describe(description: WorkerDescription): void {
    this.description = description;
  }

  /** The server's end of the connection. */
  [Symbol.dispose](): void {
    this.#break();
  }

  override async startSandbox(
    request: StartSandbox,
    onProgress: Parameters<Worker["startSandbox"]>[1],
    signal: AbortSignal,
  ): Promise<StartedSandbox> {
    return await this.#call(async () => {
      using _ = this.#admit(request.memoryMib);
      return await super.startSandbox(request, onProgress, signal);
    });
  }

  override async stopSandbox(id: SandboxId): Promise<void> {
    await this.#call(() => super.stopSandbox(id));
  }

  override async listSandboxes(): Promise<readonly HeldSandbox[]> {
    return await this.#call(() => super.listSandboxes());
  }

  override async waitForEnd(id: SandboxId, signal: AbortSignal): Promise<SandboxEnd> {
    if (!this.isReachable) throw new SandboxError("canceled", "the connection is broken");
    return await Promise.race([super.waitForEnd(id, signal), this.#broken.promise]);
  }

  override async captureSandbox(id: SandboxId, request: Capture, signal: AbortSignal): Promise<CapturedSnapshot> {
    return await this.#call(() => super.captureSandbox(id, request, signal));
  }

  override async hibernateSandbox(
    id: SandboxId,
    snapshotId: SnapshotId,
    signal: AbortSignal,
  ): Promise<CapturedSnapshot> {
    return await this.#call(() => super.hibernateSandbox(id, snapshotId, signal));
  }

  override async powerCycleSandbox(id: SandboxId): Promise<void> {
    await this.#call(async () => {
      const { running, request } = this.host.machine(id);
      using _ = running ? undefined : this.#admit(request.memoryMib);
      await super.powerCycleSandbox(id);
    });
  }

  override async findSnapshot(snapshotId: SnapshotId): Promise<StoredSnapshot | undefined> {
    return await this.#call(() => super.findSnapshot(snapshotId));
  }

  override async removeSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#call(() => super.removeSnapshot(snapshotId));
  }

  override async uploadSnapshot(snapshotId: SnapshotId, signal: AbortSignal): Promise<void> {
    await this.#call(async () => {
      if (!this.#options.storeAnswers()) throw new SandboxError("unavailable", "the object store answers 503");
      await super.uploadSnapshot(snapshotId, signal);
    });
  }

  override async removeStoredSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#call(async () => {
      if (!this.#options.storeAnswers()) throw new SandboxError("unavailable", "the object store answers 503");
      await super.removeStoredSnapshot(snapshotId);
    });
  }

  /** What a guest does for a call of a user. @throws `unavailable` when the machine is not there or stands still */
  async inGuest<T>(id: SandboxId, work: (machine: TestMachine) => T): Promise<T> {
    return await this.#call(async () => {
      const machine = this.host.machine(id);
      if (!machine.running || this.#isFenced) throw new SandboxError("unavailable", "the machine does not answer");
      return await Promise.resolve(work(machine));
    });
  }

  /** As the admission of a real worker does. */
  #admit(memoryMib: number): Disposable {
    const needMib = neededMib(memoryMib);
    const freeMib = this.memoryMib - this.usedMib - this.#promisedMib;
    if (needMib <= freeMib) {
      this.#promisedMib += needMib;
      return {
        [Symbol.dispose]: () => {
          this.#promisedMib -= needMib;
        },
      };
    }
    throw new SandboxError("no_capacity", "the host has no memory left", { resource: "memory", needMib, freeMib });
  }

  #startLease(leftMs = leaseSeconds * 1000): void {
    this.#lease = new Lease({
      leaseMs: leaseSeconds * 1000,
      leftMs,
      onRenewed: () => (this.#renewedMs = performance.now()),
      fence: async () => {
        this.#isFenced = true;
        await Promise.resolve();
      },
      release: async () => {
        this.#isFenced = false;
        await Promise.resolve();
      },
      log: () => {},
    });
  }

  #break(): void {
    this.#broken.reject(new SandboxError("canceled", "the connection is broken"));
    this.#broken = Promise.withResolvers();
    this.#broken.promise.catch(() => {});
  }

  /** A call over the network. It fails when the connection breaks, before or after its effect. */
  async #call<T>(effect: () => Promise<T>): Promise<T> {
    const gone = (): Error =>
      markOutcomeUnknown(new SandboxError("unavailable", `worker ${this.id} does not answer: the connection broke`));
    if (!this.isReachable) throw gone();
    const life = this.#life;
    const broken = this.#broken.promise.catch(() => {
      throw gone();
    });
    const done = (async (): Promise<T> => {
      await this.#pause();
      // A process that has ended does nothing more.
      if (this.#life !== life) throw gone();
      const result = await effect();
      await this.#pause();
      return result;
    })();
    done.catch(() => {});
    return await Promise.race([done, broken]);
  }

  async #pause(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    setTimeout(resolve, this.#options.latencyMs());
    await promise;
  }
}
