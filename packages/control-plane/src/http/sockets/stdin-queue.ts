import { stdinWindow } from "@opensandbox/wire/public/guests/execs.ts";
import type { RunningExec } from "@opensandbox/wire/worker/worker.ts";

type Input = Pick<RunningExec, "write" | "closeStdin">;

/**
 * What a client has sent and the command has not taken yet. A client that keeps to the window is always read from, so
 * that its signals and its end are noticed while the command takes nothing; one that does not has to wait.
 */
export class StdinQueue {
  readonly #exec: Input;
  readonly #client: { pause(): void; resume(): void; taken(bytes: number): void };
  #work: Promise<void> = Promise.resolve();
  #waiting = 0;

  constructor(exec: Input, client: { pause(): void; resume(): void; taken(bytes: number): void }) {
    this.#exec = exec;
    this.#client = client;
  }

  write(bytes: Uint8Array): void {
    this.#waiting += bytes.length;
    if (this.#waiting > stdinWindow) this.#client.pause();
    this.#then(async () => {
      // In pieces, so that the client hears of each.
      for (let at = 0; at < bytes.length; at += pieceBytes) {
        const piece = bytes.subarray(at, at + pieceBytes);
        await this.#exec.write(piece);
        this.#taken(piece.length);
      }
    });
  }

  end(): void {
    this.#then(() => this.#exec.closeStdin());
  }

  #then(step: () => Promise<void>): void {
    // A command that reads no more, or has ended, is no failure of what it was sent; the rest is dropped.
    this.#work = this.#work.then(step).catch(() => {
      this.#client.resume();
    });
  }

  #taken(bytes: number): void {
    this.#waiting -= bytes;
    this.#client.taken(bytes);
    if (this.#waiting <= stdinWindow) this.#client.resume();
  }
}

const pieceBytes = 65_536;
