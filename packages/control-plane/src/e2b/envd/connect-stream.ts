import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { endEnvelopeOf, envelopeOf } from "@opensandbox/wire/e2b/connect.ts";
import type { ConnectFailure } from "@opensandbox/wire/e2b/errors.ts";

/** Seconds between keep-alives of a silent stream, unless the client asks for another interval. */
const defaultKeepAliveSeconds = 90;
const maxKeepAliveSeconds = 3600;

/** The answer to a streaming call: a series of envelopes, whose last one ends the stream. */
export class ConnectStream implements Disposable {
  readonly #response: ServerResponse;
  readonly #keepAlive: object;
  readonly #everyMs: number;
  #timer: NodeJS.Timeout | undefined;

  /** Sends `keepAlive` when nothing was sent for the interval that the client asks for. */
  constructor(response: ServerResponse, keepAlive: object, interval: string | string[] | undefined) {
    this.#response = response;
    this.#keepAlive = keepAlive;
    const seconds = Number(interval);
    const wanted = Number.isFinite(seconds) && seconds >= 1 ? seconds : defaultKeepAliveSeconds;
    this.#everyMs = Math.min(wanted, maxKeepAliveSeconds) * 1000;
  }

  /** Settles when the client can take more. */
  async send(message: object, signal: AbortSignal): Promise<void> {
    this.#begin();
    if (!this.#response.write(envelopeOf(message))) await once(this.#response, "drain", { signal });
  }

  /** Ends the stream, with a failure if there is one. */
  end(failure?: ConnectFailure): void {
    this.#begin();
    this.#response.end(endEnvelopeOf(failure));
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  #begin(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.#response.writableNeedDrain || this.#response.destroyed) return;
      this.#begin();
      this.#response.write(envelopeOf(this.#keepAlive));
    }, this.#everyMs);
    if (this.#response.headersSent || this.#response.destroyed) return;
    this.#response.writeHead(200, { "content-type": "application/connect+json" });
  }
}
