import { Socket } from "node:net";
import { openForeignPipe } from "#host/kernel/foreign-files.ts";

/** How much of the console's end is kept. */
const keptBytes = 64 * 1024;

/**
 * The end of what a guest writes to its console, read from the pipe that Firecracker writes to. Firecracker never waits
 * for a reader: a full pipe, 64 KiB, loses what comes later. A worker that adopts the VM has what it reads from then on.
 */
export class Console implements Disposable {
  /** Settles when the guest's kernel has halted its processors; never rejects. */
  readonly halted: Promise<void>;
  readonly #pipe: Socket;
  #kept = Buffer.alloc(0);

  constructor(path: string) {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.halted = promise;
    this.#pipe = new Socket({ fd: openForeignPipe(path), writable: false });
    this.#pipe.unref();
    this.#pipe.on("error", () => this.#pipe.destroy());
    this.#pipe.on("data", (chunk: Buffer) => {
      this.#kept = Buffer.concat([this.#kept, chunk]).subarray(-keptBytes);
      if (haltMessage.test(this.#kept.toString("latin1"))) resolve();
    });
  }

  read(): string {
    return this.#kept.toString("utf8").slice(-keptBytes);
  }

  [Symbol.dispose](): void {
    this.#pipe.destroy();
  }
}

/** What Linux prints (kernel/reboot.c): without a way to power off, it halts. */
const haltMessage = /\] reboot: (Power off not available: )?(System halted|Power down)/;
