import { describeError } from "@opensandbox/wire/errors.ts";
import type { WorkerStatus } from "@opensandbox/wire/worker/status.ts";
import type { Worker, WorkerDescription } from "@opensandbox/wire/worker/worker.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { Servers } from "../servers/servers.ts";
import type { Heard } from "./worker-store.ts";

/** The interval between heartbeats, in milliseconds. */
const defaultHeartbeatMs = 2000;
/** Heartbeats between two checks. A call whose connection broke may have left a wrong row. */
const heartbeatsPerCheck = 15;

/** A worker as a fleet reaches it. */
export interface MemberWorker extends Worker, Disposable {
  /** Its process and what its host has free. */
  status(): Promise<WorkerStatus>;
  /** Greets the worker again, which may run a newer version by now. */
  greet(): Promise<void>;
  /** Takes over the description that another server was given. */
  describe(description: WorkerDescription): void;
}

export interface MemberOptions {
  readonly id: string;
  readonly url: string;
  readonly worker: MemberWorker;
  readonly isCordoned: boolean;
  readonly isDraining: boolean;
  readonly clock: Clock;
  readonly log: Log;
  readonly heartbeatMs?: number | undefined;
  /**
   * Runs when the worker answers for the first time, after a silence, and after its process was started again: what it
   * holds may differ from the rows. Until it has succeeded, the worker counts as silent.
   */
  readonly onReturn: () => Promise<void>;
  /** Runs at intervals while the worker answers, to check its rows. */
  readonly onCheck: () => Promise<void>;
  /** One of several servers talks to the workers. The others learn from it. */
  readonly servers: Servers;
  /** Tells the other servers what this one has heard. */
  readonly publish: (heard: Heard) => Promise<void>;
}

/**
 * A worker of the fleet, with its heartbeat: the server on duty asks it, and the others take over what that server has
 * heard. Disposing ends the heartbeat and the connection; the worker runs on.
 */
export class Member implements AsyncDisposable {
  readonly id: string;
  readonly url: string;
  readonly worker: MemberWorker;
  isCordoned: boolean;
  /** Its sandboxes leave it. */
  isDraining: boolean;
  /** The sandboxes of this silent worker continue elsewhere, as far as something is stored of them. */
  isRecovered = false;
  /** Starts on their way to the worker, which its status does not count yet: MiB that each needs. */
  readonly starting = new Set<{ readonly neededMib: number }>();
  /** Images that sandboxes were started from: their templates exist. */
  readonly templates = new Set<string>();
  #status: WorkerStatus | undefined;
  /** When it last answered. */
  #seenAt: number | undefined;
  /** Of the monotonic clock: when it last answered, or when this server began to ask. */
  #heardAt = performance.now();
  #isUp = false;
  /** Whether this server has reconciled its sandboxes. */
  #isReconciled = false;
  readonly #options: MemberOptions;
  readonly #ending = new AbortController();
  readonly #beating: Promise<void>;

  constructor(options: MemberOptions) {
    this.#options = options;
    this.id = options.id;
    this.url = options.url;
    this.worker = options.worker;
    this.isCordoned = options.isCordoned;
    this.isDraining = options.isDraining;
    this.#beating = this.#beat();
  }

  /** Its last status. Undefined when it has not answered yet. */
  get status(): WorkerStatus | undefined {
    return this.#status;
  }

  /** Whether it answers and its sandboxes are reconciled with the rows. */
  get isUp(): boolean {
    return this.#isUp;
  }

  get seenAt(): Date | undefined {
    return this.#seenAt === undefined ? undefined : new Date(this.#seenAt);
  }

  /** How long it has not answered, by a clock that no correction of the time changes. In milliseconds. */
  get silentMs(): number {
    return performance.now() - this.#heardAt;
  }

  /** Takes over what the server on duty has heard. */
  observe({ status, isUp, seenAt }: Heard): void {
    if (this.#options.servers.isOnDuty) return;
    this.#status = status;
    this.#isUp = isUp;
    this.#seenAt = seenAt;
  }

  /** Has the next answer reconciled as a first one. Until then the worker stays in use. */
  reconcileAgain(): void {
    this.#isReconciled = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort();
    this.worker[Symbol.dispose]();
    await this.#beating;
  }

  async #beat(): Promise<void> {
    const { clock, log, onReturn, onCheck, servers, heartbeatMs = defaultHeartbeatMs } = this.#options;
    const { signal } = this.#ending;
    let instance: string | undefined;
    let beats = 0;
    while (!signal.aborted) {
      if (!servers.isOnDuty) {
        // The silence of a worker counts from the moment at which this server begins to ask.
        this.#heardAt = performance.now();
        await pause(heartbeatMs, signal);
        continue;
      }
      try {
        const status = await this.worker.status();
        if (status.workerId !== this.id) throw new Error(`${this.url} is now worker ${status.workerId}`);
        this.#status = status;
        this.#seenAt = clock.now();
        this.#heardAt = performance.now();
        if (instance !== undefined && status.instance !== instance) this.#isUp = false;
        if (!this.#isUp || !this.#isReconciled) {
          this.#isReconciled = true;
          await this.worker.greet();
          await onReturn();
          instance = status.instance;
          this.#isUp = true;
          this.isRecovered = false;
          log("info", "a worker answers", { worker: this.id, url: this.url });
        } else if (++beats % heartbeatsPerCheck === 0) {
          await onCheck();
        }
      } catch (error) {
        if (signal.aborted) return;
        if (this.#isUp || this.#seenAt === undefined) {
          log("warn", "a worker does not answer: its sandboxes are kept", { worker: this.id, ...describeError(error) });
        }
        this.#isUp = false;
        this.#isReconciled = false;
      }
      await this.#publish();
      await pause(heartbeatMs, signal);
    }
  }

  async #publish(): Promise<void> {
    const { servers, publish, log } = this.#options;
    if (servers.id === undefined) return;
    try {
      await publish({ status: this.#status, isUp: this.#isUp, seenAt: this.#seenAt });
    } catch (error) {
      log("warn", "cannot tell the other servers about a worker", { worker: this.id, ...describeError(error) });
    }
  }
}

async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  const stop = (): void => resolve();
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  await promise;
  clearTimeout(timer);
  signal.removeEventListener("abort", stop);
}
