import type { Socket } from "node:net";
import type { Transport } from "@opensandbox/wire/guest/channel.ts";

/** Requests wait for room while more than this is on its way to a guest, in bytes. */
const maxQueuedBytes = 4 * 2 ** 20;

/**
 * A guest that lets this much pile up is given up. Data of streams that have begun and grants of credit do not wait for
 * room; they stay far below this limit, unless the guest sends without reading.
 */
const maxUnreadBytes = 64 * 2 ** 20;

/**
 * Wraps the socket of an agent channel: it writes in order and limits the bytes that wait for the guest to read them.
 */
export class GuestLine implements Transport {
  readonly #socket: Socket;
  /** Frames that wait for {@link release}, in order; undefined while frames are sent. */
  #held: Uint8Array[] | undefined;
  #heldBytes = 0;
  /** Settles when the socket takes more; rejects when it has closed. */
  #drained: PromiseWithResolvers<void> | undefined;

  readonly #onFlooded: (error: Error) => void;

  /** `onFlooded` is called when the guest leaves too much unread, and has to close the socket. */
  constructor(socket: Socket, onFlooded: (error: Error) => void) {
    this.#socket = socket;
    this.#onFlooded = onFlooded;
    socket.on("drain", () => this.#onDrain());
    socket.once("close", () => this.#fail());
  }

  /** Whether a new request has to {@link drained | wait for room}. */
  get isFull(): boolean {
    return this.#queuedBytes > maxQueuedBytes;
  }

  get isHeld(): boolean {
    return this.#held !== undefined;
  }

  /** Settles when the guest has read on. Rejects when the line has closed. */
  drained(): Promise<void> {
    if (this.#socket.destroyed) return Promise.reject(new Error("the socket is closed"));
    if (this.#drained === undefined) {
      this.#drained = Promise.withResolvers();
      this.#drained.promise.catch(() => undefined);
    }
    return this.#drained.promise;
  }

  write(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#socket.destroyed) return Promise.reject(new Error("the socket is closed"));
    if (this.#queuedBytes > maxUnreadBytes) {
      const error = new Error(`the guest has left ${maxUnreadBytes / 2 ** 20} MiB unread`);
      this.#onFlooded(error);
      return Promise.reject(error);
    }
    if (this.#held !== undefined) {
      this.#held.push(bytes);
      this.#heldBytes += bytes.length;
      return this.drained();
    }
    return this.#socket.write(bytes) ? undefined : this.drained();
  }

  /** Sends nothing from now on: a machine that is captured would keep a part of a frame. */
  hold(): void {
    this.#held ??= [];
  }

  /** Sends the held frames, and everything after them. */
  release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    this.#heldBytes = 0;
    let isFree = true;
    for (const bytes of held) isFree = this.#socket.write(bytes);
    if (isFree && held.length > 0) this.#onDrain();
  }

  get #queuedBytes(): number {
    return this.#socket.writableLength + this.#heldBytes;
  }

  #onDrain(): void {
    if (this.#held !== undefined) return;
    this.#drained?.resolve();
    this.#drained = undefined;
  }

  #fail(): void {
    this.#drained?.reject(new Error("the socket was closed"));
    this.#drained = undefined;
  }
}
