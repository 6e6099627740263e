import { once } from "node:events";
import type { FastifyReply } from "fastify";

/** A client with more unread bytes than this misses the events that it can do without. */
const maxUnreadBytes = 2 ** 20;

/** Server-sent events. The reply begins with the first event: until then it can still have another status. */
export class EventStream implements Disposable {
  readonly #reply: FastifyReply;
  readonly #keepAlive: NodeJS.Timeout;

  constructor(reply: FastifyReply, keepAliveMs: number) {
    this.#reply = reply;
    this.#keepAlive = setInterval(() => {
      if (!this.#isFull) this.#write(": keepalive\n\n");
    }, keepAliveMs);
  }

  get begun(): boolean {
    return this.#reply.raw.headersSent;
  }

  /** Sends the head of the reply before the first event, so that the client knows that its request succeeded. */
  begin(): void {
    this.#write(": begins\n\n");
  }

  /**
   * Sends an event that the client must get. The caller bounds how many there are, or waits for the client.
   * @param id what the client sends as `Last-Event-ID` when it reconnects after this event
   */
  send(event: string, data: unknown, id?: string): void {
    const named = id === undefined ? "" : `id: ${id}\n`;
    this.#write(`${named}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  /** Waits until the client has read most of what was sent. @throws the signal's reason when it is aborted before */
  async drained(signal: AbortSignal): Promise<void> {
    const { raw } = this.#reply;
    // A reply that was destroyed never drains; its signal is about to be aborted.
    while (raw.writableNeedDrain && !signal.aborted) await once(raw, "drain", { signal });
    signal.throwIfAborted();
  }

  /** Sends an event unless the client is far behind. Returns whether it was sent. */
  offer(event: string, data: unknown): boolean {
    if (this.#isFull) return false;
    this.send(event, data);
    return true;
  }

  end(): void {
    this.#reply.raw.end();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#keepAlive);
  }

  get #isFull(): boolean {
    return this.#reply.raw.writableLength > maxUnreadBytes;
  }

  #write(text: string): void {
    const { raw } = this.#reply;
    if (raw.destroyed) return;
    if (!this.begun) {
      this.#reply.hijack();
      raw.writeHead(200, {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
      });
    }
    raw.write(text);
  }
}
