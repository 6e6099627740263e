import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "#host/log.ts";

export interface LeaseOptions {
  /** How long machines may run without a word from the server, in milliseconds. */
  readonly leaseMs: number;
  /** What is left of the lease that an earlier process had, in milliseconds. Default: all of it. Nothing: it starts fenced. */
  readonly leftMs?: number;
  /** Notes each renewal by a server, for the next process. */
  readonly onRenewed?: () => void;
  /** Pauses every machine, also those that have been paused before. */
  readonly fence: () => Promise<void>;
  /** Resumes them. */
  readonly release: () => Promise<void>;
  readonly log: Log;
}

/** How often machines are paused again while the worker is fenced: a start that was under way may have ended since. */
const refenceMs = 1000;

/**
 * The right of a worker to run machines, which each question of its server renews. When it expires the worker is fenced:
 * its machines are paused, so that their sandboxes can be started elsewhere. A server that comes back greets the worker,
 * ends the machines whose sandboxes run elsewhere, and then asks for its status without another greeting. The second such
 * question in a row resumes what is left.
 */
export class Lease implements AsyncDisposable {
  readonly #options: LeaseOptions;
  #timer: NodeJS.Timeout | undefined;
  #isFenced = false;
  #isDisposed = false;
  /** Since the last greeting, or since the fence. */
  #questions = 0;
  /** Fencing and releasing, one after the other. */
  #last = Promise.resolve();

  constructor(options: LeaseOptions) {
    this.#options = options;
    const { leaseMs, leftMs = leaseMs } = options;
    if (leftMs > 0) this.#timer = this.#expireLater(leftMs);
    else this.#fence();
  }

  /** The server asks for the status. */
  asked(): void {
    this.#questions += 1;
    if (!this.#isFenced) this.#renew();
    else if (this.#questions > 1) this.#release();
  }

  /** The server greets the worker: it compares its rows with what is here before it asks again. */
  greeted(): void {
    this.#questions = 0;
    if (!this.#isFenced) this.#renew();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true;
    clearTimeout(this.#timer);
    await this.#last;
  }

  #renew(): void {
    clearTimeout(this.#timer);
    this.#timer = this.#expireLater(this.#options.leaseMs);
    this.#options.onRenewed?.();
  }

  #expireLater(milliseconds: number): NodeJS.Timeout {
    return setTimeout(() => this.#fence(), milliseconds);
  }

  #fence(): void {
    if (this.#isDisposed) return;
    const { fence, log, leaseMs } = this.#options;
    if (!this.#isFenced) {
      this.#isFenced = true;
      this.#questions = 0;
      log("error", "no server has asked for this worker: its machines are paused until one does", { leaseMs });
    }
    this.#then("cannot pause the machines of a worker that is cut off", async () => {
      if (this.#isFenced) await fence();
    });
    this.#timer = this.#expireLater(refenceMs);
  }

  #release(): void {
    const { release, log } = this.#options;
    this.#isFenced = false;
    this.#renew();
    log("info", "the server is back: the machines of this worker run again");
    this.#then("cannot resume the machines of a worker", release);
  }

  #then(what: string, work: () => Promise<void>): void {
    this.#last = this.#last
      .then(work)
      .catch((error: unknown) => this.#options.log("error", what, describeError(error)));
  }
}
