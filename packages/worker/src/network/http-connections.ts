import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";

export interface HttpConnectionLimits {
  /** Concurrent connections of one guest. */
  readonly maxConnections: number;
  /** From a connection's start, or from the end of its last response, until the next request has arrived. */
  readonly requestTimeoutMs: number;
  /** The part of a request that must arrive within `requestTimeoutMs`. */
  readonly until: "head" | "end";
}

/**
 * Passes accepted connections to an HTTP server, within limits. Node's own `headersTimeout` and `requestTimeout` apply
 * only to servers that listen themselves.
 */
export class HttpConnections implements Disposable {
  readonly #http: Server;
  readonly #limits: HttpConnectionLimits;
  readonly #open = new Map<Socket, Waiting>();

  constructor(http: Server, limits: HttpConnectionLimits) {
    this.#http = http;
    this.#limits = limits;
    http.on("request", (request: IncomingMessage, response: ServerResponse) => {
      const waiting = this.#open.get(request.socket);
      if (limits.until === "head") waiting?.arrived();
      else request.once("end", () => waiting?.arrived());
      response.once("close", () => waiting?.answered());
    });
  }

  /** False when the guest has too many connections; the caller still owns this one. */
  take(socket: Socket): boolean {
    if (this.#open.size >= this.#limits.maxConnections) return false;
    const waiting = new Waiting(this.#limits.requestTimeoutMs, () => socket.destroy());
    this.#open.set(socket, waiting);
    socket.once("close", () => {
      waiting[Symbol.dispose]();
      this.#open.delete(socket);
    });
    this.#http.emit("connection", socket);
    return true;
  }

  [Symbol.dispose](): void {
    for (const socket of this.#open.keys()) socket.destroy();
  }
}

/** A deadline that runs while no request is being answered. Requests of one connection may overlap (pipelining). */
class Waiting implements Disposable {
  readonly #timeoutMs: number;
  readonly #giveUp: () => void;
  #timer: NodeJS.Timeout | undefined;
  #unanswered = 0;

  constructor(timeoutMs: number, giveUp: () => void) {
    this.#timeoutMs = timeoutMs;
    this.#giveUp = giveUp;
    this.#start();
  }

  arrived(): void {
    this.#unanswered += 1;
    clearTimeout(this.#timer);
  }

  answered(): void {
    this.#unanswered = Math.max(0, this.#unanswered - 1);
    if (this.#unanswered === 0) this.#start();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#unanswered = Number.POSITIVE_INFINITY;
  }

  #start(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#giveUp, this.#timeoutMs);
  }
}
