import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { mock } from "node:test";
import { describeError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { createCheckpoint } from "../../packages/control-plane/src/checkpoints/create-checkpoint.ts";
import { type Database, openDatabase } from "../../packages/control-plane/src/database/database.ts";
import { Fleet } from "../../packages/control-plane/src/fleet/fleet.ts";
import { WorkerStore } from "../../packages/control-plane/src/fleet/worker-store.ts";
import type { SandboxContext } from "../../packages/control-plane/src/lifecycle/sandbox-context.ts";
import { passingStates } from "../../packages/control-plane/src/lifecycle/sandbox-lifecycle.ts";
import { useSandbox } from "../../packages/control-plane/src/lifecycle/use-sandbox.ts";
import {
  makeDefaultOrganization,
  defaultOrganizationId,
} from "../../packages/control-plane/src/organizations/api-keys.ts";
import { createSandbox } from "../../packages/control-plane/src/sandboxes/create-sandbox.ts";
import { deleteSandbox } from "../../packages/control-plane/src/sandboxes/delete-sandbox.ts";
import { hibernateSandbox } from "../../packages/control-plane/src/sandboxes/hibernate-sandbox.ts";
import { wakeSandbox } from "../../packages/control-plane/src/sandboxes/wake-sandbox.ts";
import { MasterKeys } from "../../packages/control-plane/src/secrets/master-keys.ts";
import { SecretsOfSandboxes } from "../../packages/control-plane/src/secrets/sandbox-secrets.ts";
import { SecretRows } from "../../packages/control-plane/src/secrets/secret-rows.ts";
import { onlyServer } from "../../packages/control-plane/src/servers/servers.ts";
import { openSandboxes } from "../../packages/control-plane/src/service/open-sandboxes.ts";
import { IdleSweep } from "../../packages/control-plane/src/service/sweep-sandboxes.ts";
import type { TestHost, TestMachine } from "../../packages/control-plane/src/testing/test-host.ts";
import { leaseSeconds, SimulatedWorker } from "./simulated-worker.ts";

const organizationId = defaultOrganizationId;
const never = new AbortController().signal;

export interface Shape {
  readonly workers: number;
  readonly workerMemoryMib: number;
  readonly heartbeatMs: number;
  /** Virtual milliseconds of one step of the clock. */
  readonly stepMs: number;
}

/** What users know of a sandbox: the last value whose write was acknowledged, and the last that was sent. */
interface Known {
  acknowledged: number;
  sent: number;
  isDeleted: boolean;
}

/** A history of a fleet: one server with the real placement and lifecycle, simulated workers, and a clock that it moves. */
export class SimulatedFleet implements AsyncDisposable {
  readonly workers: readonly SimulatedWorker[];
  readonly ids: SandboxId[] = [];
  /** Calls that were made and answered, by outcome, to see that a history is not empty. */
  readonly answers = new Map<string, number>();
  readonly #shape: Shape;
  readonly #stored: TestHost["stored"];
  readonly #known = new Map<SandboxId, Known>();
  readonly #calls = new Set<Promise<void>>();
  readonly #database: Database;
  readonly #directory: string;
  #storeAnswers = true;
  #now = 0;
  #server!: {
    readonly context: SandboxContext;
    readonly fleet: Fleet;
    readonly ending: AbortController;
    readonly idle: NodeJS.Timeout;
  };

  private constructor(shape: Shape, random: () => number, database: Database, directory: string) {
    this.#shape = shape;
    this.#database = database;
    this.#directory = directory;
    const stored: TestHost["stored"] = new Map();
    this.#stored = stored;
    this.workers = Array.from(
      { length: shape.workers },
      (_, index) =>
        new SimulatedWorker({
          id: `wk-${String(index).padStart(4, "0")}`,
          memoryMib: shape.workerMemoryMib,
          stored,
          latencyMs: () => 1 + Math.floor(random() * 400),
          storeAnswers: () => this.#storeAnswers,
        }),
    );
  }

  /** @param random the only source of chance, from 0 to 1 */
  static async start(shape: Shape, random: () => number): Promise<SimulatedFleet> {
    const directory = await mkdtemp(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "osb-simulation-"));
    const database = await openDatabase(join(directory, "rows.sqlite"));
    await makeDefaultOrganization(database, 0);
    mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: Date.UTC(2030, 0, 1) });
    const fleet = new SimulatedFleet(shape, random, database, directory);
    mock.method(performance, "now", () => fleet.#now);
    const rows = new WorkerStore(database);
    for (const { id, description } of fleet.workers)
      await rows.put({ id, url: `https://${id}`, description }, new Date(0));
    await fleet.startServer();
    await fleet.pass(4 * shape.heartbeatMs);
    return fleet;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.endServer();
      for (const worker of this.workers) await worker.end();
    } finally {
      mock.timers.reset();
      mock.restoreAll();
      await this.#database.destroy();
      await rm(this.#directory, { recursive: true, force: true });
    }
  }

  async startServer(): Promise<void> {
    const clock = { now: () => Date.now(), elapsed: () => this.#now };
    const log = (): void => {};
    const byUrl = new Map(this.workers.map((worker) => [`https://${worker.id}`, worker]));
    const fleet = new Fleet({
      ...{ database: this.#database, clock, log, servers: onlyServer },
      workerAt: (url) => byUrl.get(url) ?? assert.fail(url),
      heartbeatMs: this.#shape.heartbeatMs,
      uploadsMs: this.#shape.heartbeatMs,
      lostAfterMs: 1000,
    });
    const ending = new AbortController();
    const context = await openSandboxes({
      ...{ worker: fleet, placement: fleet, database: this.#database, clock, log },
      settings: {
        defaults: { vcpus: 1, memoryMib: 1024, workspaceMib: 1024, idleTimeoutSeconds: 300 },
        limits: { maxSandboxes: Number.MAX_SAFE_INTEGER },
        ephemeral: false,
      },
      secrets: new SecretsOfSandboxes(new SecretRows(this.#database, new MasterKeys([])), "00".repeat(32)),
      isWorkerAlive: () => true,
      shutdown: { ending: ending.signal, cutOff: ending.signal },
    });
    await fleet.start(context);
    const sweep = new IdleSweep(context);
    const idle = setInterval(() => void sweep.run(), this.#shape.heartbeatMs);
    this.#server = { context, fleet, ending, idle };
  }

  /** As a crash does: calls under way get no answer, and nothing of memory is left. */
  async endServer(): Promise<void> {
    const { fleet, ending, idle, context } = this.#server;
    clearInterval(idle);
    ending.abort(new SandboxError("unavailable", "the server ended"));
    const ended = Promise.all([
      fleet[Symbol.asyncDispose](),
      context.operations.background.idle(),
      Promise.all(this.#calls),
    ]);
    await this.#until("the server ends", ended);
  }

  /** A process that ends is started again soon, as systemd does: nobody else could pause its machines. */
  async restartWorker(index: number): Promise<void> {
    const worker = this.workers[index];
    if (worker === undefined || worker.isDown) return;
    await worker.kill();
    await this.pass(3000);
    worker.start();
  }

  set storeAnswers(answers: boolean) {
    this.#storeAnswers = answers;
  }

  /** Moves the clock. Everything that is due happens, in the order of its time. */
  async pass(milliseconds: number): Promise<void> {
    for (let left = milliseconds; left > 0;) left -= await this.#tick();
  }

  /** Returns the milliseconds that have passed: more while no call is under way. */
  async #tick(): Promise<number> {
    const { stepMs } = this.#shape;
    const ms = this.#calls.size === 0 ? 10 * stepMs : stepMs;
    this.#now += ms;
    mock.timers.tick(ms);
    await turn();
    this.#checkAlways();
    return ms;
  }

  async #until<T>(what: string, done: Promise<T>): Promise<T> {
    const state = { isDone: false };
    const settled = done.finally(() => {
      state.isDone = true;
    });
    settled.catch(() => {});
    // An hour of the simulated clock.
    for (let left = 3_600_000; !state.isDone;) {
      assert.ok(left > 0, `${what}: not within an hour`);
      left -= await this.#tick();
      await turn();
    }
    return await settled;
  }

  // Calls of users. Each runs by itself, so that calls meet.

  create(): void {
    this.#call("create", async ({ context }) => {
      const sandbox = { image: "default", envs: {}, metadata: {}, alias: "", networkEnabled: true };
      const created = await createSandbox(context, { organizationId, sandbox }, () => {}, context.shutdown.ending);
      this.#known.set(created.sandbox.id, { acknowledged: 0, sent: 0, isDeleted: false });
      this.ids.push(created.sandbox.id);
    });
  }

  write(id: SandboxId): void {
    this.#call("write", async ({ context }) => {
      const known = this.#known.get(id);
      if (known === undefined) return;
      using _ = await useSandbox(context, organizationId, id, context.shutdown.ending);
      const value = (known.sent += 1);
      // Of two writes on their way at once, either may come last.
      await this.#inGuest(id, (files) => {
        const size = Math.max(value, files.get("/value")?.size ?? 0);
        files.set("/value", { chunks: [], size, mode: 0 });
      });
      known.acknowledged = Math.max(known.acknowledged, value);
    });
  }

  hibernate(id: SandboxId): void {
    this.#call("hibernate", async ({ context }) => void (await hibernateSandbox(context, organizationId, id)));
  }

  wake(id: SandboxId): void {
    this.#call("wake", async ({ context }) => void (await wakeSandbox(context, { organizationId, id })));
  }

  checkpoint(id: SandboxId): void {
    this.#call("checkpoint", async ({ context }) => {
      const name = `at ${this.#now}`;
      await createCheckpoint(context, {
        ...{ organizationId, id },
        wanted: { name, kind: "full", promoteToFull: false, keep: 2 },
      });
    });
  }

  delete(id: SandboxId): void {
    this.#call("delete", async ({ context }) => {
      await deleteSandbox(context, organizationId, id);
      const known = this.#known.get(id);
      if (known !== undefined) known.isDeleted = true;
    });
  }

  #call(name: string, work: (server: { readonly context: SandboxContext }) => Promise<void>): void {
    const count = (outcome: string): void =>
      void this.answers.set(`${name} ${outcome}`, (this.answers.get(`${name} ${outcome}`) ?? 0) + 1);
    const call: Promise<void> = work(this.#server)
      .then(
        () => count("ok"),
        (error: unknown) => {
          // Every failure has a code that a user can act on.
          assert.ok(
            isSandboxError(error) && error.code !== "internal",
            `${name}: ${JSON.stringify(describeError(error))}`,
          );
          count(error.code);
        },
      )
      .finally(() => this.#calls.delete(call));
    call.catch((error: unknown) => (this.#failure ??= error));
    this.#calls.add(call);
  }

  #failure: unknown;

  async #inGuest<T>(id: SandboxId, work: (files: TestMachine["files"]) => T): Promise<T> {
    const row = await this.#server.context.stores.sandboxes.find(id);
    const worker = this.workers.find((each) => each.id === row?.workerId);
    if (worker === undefined) throw new SandboxError("unavailable", "it has moved");
    return await worker.inGuest(id, ({ files }) => work(files));
  }

  // Invariants

  /** Hold at every moment. */
  #checkAlways(): void {
    if (this.#failure !== undefined) throw this.#failure;
    const acting = new Set<SandboxId>();
    for (const worker of this.workers) {
      assert.ok(worker.usedMib <= worker.memoryMib, `I6: ${worker.id} has more machines than memory`);
      for (const id of worker.acting) {
        assert.ok(!acting.has(id), `I2: sandbox ${id} has two machines that run`);
        acting.add(id);
      }
    }
  }

  /** Heals every fault, waits, and checks what must hold then. */
  async settle(): Promise<void> {
    this.#storeAnswers = true;
    for (const worker of this.workers) {
      worker.mend();
      worker.start();
    }
    await this.#until("calls are answered", Promise.all(this.#calls));
    await this.pass(60 * this.#shape.heartbeatMs);
    const { context } = this.#server;
    await this.#until("no work is left", context.operations.background.idle());
    await this.#until("snapshots are removed", context.snapshots.removeUnwanted());
    await this.#checkSettled();
  }

  async #checkSettled(): Promise<void> {
    const { context } = this.#server;
    const rows = await this.#database.selectFrom("sandboxes").selectAll().execute();
    const machineOf = new Map<string, string>();
    for (const worker of this.workers) {
      for (const [id, { running }] of worker.host.machines) {
        assert.ok(!machineOf.has(id), `I2, I3: sandbox ${id} has machines on two workers`);
        machineOf.set(id, running ? `running on ${worker.id}` : `ended on ${worker.id}`);
      }
    }
    for (const row of rows) {
      const { id, state, worker_id: workerId } = row;
      assert.ok(!passingStates.includes(state), `I4: sandbox ${id} is still ${state}`);
      const machine = machineOf.get(id);
      machineOf.delete(id);
      if (state === "running") assert.equal(machine, `running on ${workerId}`, `I6: sandbox ${id} runs by its row`);
      else if (state === "error" && machine !== undefined) assert.equal(machine, `ended on ${workerId}`);
      else assert.equal(machine, undefined, `I3: sandbox ${id} is ${state}`);
      const known = this.#known.get(id as SandboxId);
      if (known?.isDeleted === true) assert.equal(state, "stopped", "I5: a delete that succeeded deleted");
    }
    assert.deepEqual([...machineOf.keys()], [], "I3: machines without a row");
    const ids = new Set(rows.map(({ id }) => id));
    for (const id of this.#known.keys()) assert.ok(ids.has(id), `I1: sandbox ${id} was created`);

    const needed = new Set<string>();
    for (const { hibernation_snapshot_id: id } of rows) if (id !== null) needed.add(id);
    const checkpoints = await this.#database.selectFrom("checkpoints").selectAll().execute();
    for (const { status, snapshot_id: id } of checkpoints) {
      assert.notEqual(status, "processing", "I4: a checkpoint is never finished");
      if (status === "ready") needed.add(id);
    }
    for (const { host, id: workerId } of this.workers) {
      for (const id of host.snapshots.keys())
        assert.ok(needed.has(id), `I3: ${workerId} has snapshot ${id} for nothing`);
    }
    for (const id of this.#stored.keys()) assert.ok(needed.has(id), `I3: snapshot ${id} is stored for nothing`);

    for (const [id, known] of this.#known) {
      if (known.isDeleted) continue;
      const row = rows.find((each) => each.id === id);
      if (row?.state === "stopped" || (row?.state === "error" && row.boots_on_use === 0)) continue;
      const value = await this.#until("it is read", this.#read(context, id));
      if (value === undefined) continue;
      const { recoveredFrom } = (await context.stores.sandboxes.find(id)) ?? {};
      const least = recoveredFrom === undefined ? known.acknowledged : 0;
      assert.ok(value >= least, `I1: sandbox ${id} has ${value}, and ${known.acknowledged} was acknowledged`);
      assert.ok(value <= known.sent, `I5: sandbox ${id} has a value that was never written`);
      known.acknowledged = value;
    }
  }

  /** Undefined: the fleet has no room to wake it now. */
  async #read(context: SandboxContext, id: SandboxId): Promise<number | undefined> {
    try {
      using _ = await useSandbox(context, organizationId, id, never);
      return await this.#inGuest(id, (files) => files.get("/value")?.size ?? 0);
    } catch (error) {
      if (isSandboxError(error, "no_capacity")) return undefined;
      throw error;
    }
  }
}

/** Longer than a worker needs to pause its machines, and a server to know it. */
export const lossMs = (leaseSeconds + 20) * 1000;
