import { endedChild, statusOfEnded } from "#system/libc.ts";

/** How a process ended: the code it gave to exit, or the signal that ended it. The other one is 0. */
export interface ExitStatus {
  readonly exitCode: number;
  readonly signal: number;
}

/** So many are each asked for: finding out which one it was costs more. */
const fewChildren = 4;

/**
 * The one owner of `waitpid`, and only for children that it is told of: whoever waits for any child takes the status
 * away from somebody else.
 */
export class Reaper {
  readonly #waiting = new Map<number, (status: ExitStatus) => void>();

  constructor() {
    process.on("SIGCHLD", () => this.#collectEnded());
  }

  /** Settles when the child has ended. To be called in the turn in which it was started: later the signal is past. */
  async ended(pid: number): Promise<ExitStatus> {
    const { promise, resolve } = Promise.withResolvers<ExitStatus>();
    this.#waiting.set(pid, resolve);
    return await promise;
  }

  /** Signals of several children may arrive as one. */
  #collectEnded(): void {
    if (this.#waiting.size <= fewChildren) {
      for (const pid of this.#waiting.keys()) this.#collect(pid);
      return;
    }
    for (let pid = endedChild(); pid !== undefined; pid = endedChild()) {
      if (!this.#waiting.has(pid)) {
        // Somebody else's, in front of which ours cannot be seen.
        for (const ours of this.#waiting.keys()) this.#collect(ours);
        return;
      }
      this.#collect(pid);
    }
  }

  #collect(pid: number): void {
    const status = statusOfEnded(pid);
    if (status === undefined) return;
    const resolve = this.#waiting.get(pid);
    this.#waiting.delete(pid);
    // wait(2): the signal in the low seven bits, the exit code in the second byte.
    resolve?.({ exitCode: (status >> 8) & 0xff, signal: status & 0x7f });
  }
}
