import { statusOfEnded } from "#system/libc.ts";

/** How a process ended: the code it gave to exit, or the signal that ended it. The other one is 0. */
export interface ExitStatus {
  readonly exitCode: number;
  readonly signal: number;
}

/**
 * The one owner of `waitpid`, and only for children that it is told of: whoever waits for any child takes the status
 * away from somebody else.
 */
export class Reaper {
  readonly #waiting = new Map<number, (status: ExitStatus) => void>();

  constructor() {
    // Signals of several children may arrive as one.
    process.on("SIGCHLD", () => {
      for (const pid of this.#waiting.keys()) this.#collect(pid);
    });
  }

  /** Settles when the child has ended. To be called in the turn in which it was started: later the signal is past. */
  async ended(pid: number): Promise<ExitStatus> {
    const { promise, resolve } = Promise.withResolvers<ExitStatus>();
    this.#waiting.set(pid, resolve);
    return await promise;
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
