import type { FastifyReply } from "fastify";

/** Server-sent events, begun with the first of them: until then the reply can still have another status. */
export class EventStream implements Disposable {
  readonly #reply: FastifyReply;
  readonly #keepAlive: NodeJS.Timeout;

  constructor(reply: FastifyReply, keepAliveMs: number) {
    this.#reply = reply;
    this.#keepAlive = setInterval(() => this.#write(": keepalive\n\n"), keepAliveMs);
  }

  get begun(): boolean {
    return this.#reply.raw.headersSent;
  }

  send(event: string, data: unknown): void {
    this.#write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  end(): void {
    this.#reply.raw.end();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#keepAlive);
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
