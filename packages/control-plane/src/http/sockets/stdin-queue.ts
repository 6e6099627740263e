import { stdinWindow } from "@opensandbox/wire/public/guests/execs.ts";
import type { AttachedSession } from "@opensandbox/wire/worker/sessions.ts";
import { ByteBuffer } from "#execs/byte-buffer.ts";

/** The size of the pieces that are sent to the guest, and reported to the client, in bytes. */
const pieceBytes = 65_536;

/** The signals that may be in flight to the guest before the client is paused. */
const maxControls = 64;

interface Client {
  pause(): void;
  resume(): void;
  /** Called with the number of bytes that the command has taken. */
  taken(bytes: number): void;
}

/**
 * Input that a client has sent and the command has not taken. A client within the window is always read from, so that its
 * signals and its end of input are noticed while the command takes nothing. Any other client is paused, and costs no more
 * memory than the window and one message.
 */
export class StdinQueue {
  readonly #command: Pick<AttachedSession, "write" | "closeStdin">;
  readonly #client: Client;
  /** Input that is not in flight. Small messages share one buffer, since each costs more memory than it carries. */
  #pending = new ByteBuffer();
  /** Bytes that the command has not taken: those pending and those in flight. */
  #waiting = 0;
  #controls = 0;
  #state: "open" | "ending" | "over" = "open";
  #isSending = false;
  #isPaused = false;

  constructor(command: Pick<AttachedSession, "write" | "closeStdin">, client: Client) {
    this.#command = command;
    this.#client = client;
  }

  write(bytes: Uint8Array): void {
    if (this.#state !== "open") return;
    this.#waiting += bytes.length;
    this.#pending.add(bytes);
    this.#send();
    this.#adjust();
  }

  end(): void {
    if (this.#state !== "open") return;
    this.#state = "ending";
    this.#send();
  }

  /** Counts a message that bypasses stdin, such as a signal, until `sent` settles. Its failure is ignored. */
  control(sent: Promise<void>): void {
    this.#controls += 1;
    this.#adjust();
    const settle = (): void => {
      this.#controls -= 1;
      this.#adjust();
    };
    sent.then(settle, settle);
  }

  #send(): void {
    if (this.#isSending) return;
    this.#isSending = true;
    this.#sendAll()
      .catch(() => {
        // The command has ended or closed its input, so the rest is dropped.
        this.#state = "over";
        this.#pending = new ByteBuffer();
        this.#waiting = 0;
      })
      .finally(() => {
        this.#isSending = false;
        this.#adjust();
      });
  }

  async #sendAll(): Promise<void> {
    while (this.#pending.length > 0) {
      const { bytes } = this.#pending;
      this.#pending = new ByteBuffer();
      for (let at = 0; at < bytes.length; at += pieceBytes) {
        const piece = bytes.subarray(at, at + pieceBytes);
        await this.#command.write(piece);
        this.#waiting -= piece.length;
        this.#client.taken(piece.length);
        this.#adjust();
      }
    }
    if (this.#state !== "ending") return;
    this.#state = "over";
    await this.#command.closeStdin();
  }

  #adjust(): void {
    const isPaused = this.#waiting > stdinWindow || this.#controls > maxControls;
    if (isPaused === this.#isPaused) return;
    this.#isPaused = isPaused;
    if (isPaused) this.#client.pause();
    else this.#client.resume();
  }
}
