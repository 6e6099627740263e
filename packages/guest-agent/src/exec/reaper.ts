import { endedChild, statusOfEnded } from "#system/kernel/libc.ts";

/** How a process ended: its exit code, or the signal that ended it. The other one is 0. */
export interface ExitStatus {
  readonly exitCode: number;
  readonly signal: number;
}

/** Up to this many children are each checked: asking the kernel which one ended costs more. */
const fewChildren = 4;

/**
 * Collects the status of the children it is given, and of no others: waiting for any child would take the status of one
 * that belongs to another reaper or to Node.
 */
export class Reaper {
  readonly #waiting = new Map<number, (status: ExitStatus) => void>();

  constructor() {
    process.on("SIGCHLD", () => this.#collectEnded());
  }

  /** Settles when the child has ended. Must be called in the turn that started it, before its signal can arrive. */
  async ended(pid: number): Promise<ExitStatus> {
    const { promise, resolve } = Promise.withResolvers<ExitStatus>();
    this.#waiting.set(pid, resolve);
    return await promise;
  }

  /** Collects every child that has ended: their signals may arrive as one. */
  #collectEnded(): void {
    if (this.#waiting.size <= fewChildren) {
      for (const pid of this.#waiting.keys()) this.#collect(pid);
      return;
    }
    for (let pid = endedChild(); pid !== undefined; pid = endedChild()) {
      if (!this.#waiting.has(pid)) {
        // This child belongs to another owner, and the kernel reports it first until its owner collects it.
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
