import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { isWebSocketUpgrade } from "#http/sockets/is-upgrade.ts";

/** The connections of calls under way, by the id of the key. */
export class OpenCalls {
  readonly #sockets = new Map<string, Map<Socket, number>>();

  /**
   * Remembers a call until it has been answered, or until its WebSocket closes. A call without a key id is not
   * remembered.
   */
  add(keyId: string | undefined, request: IncomingMessage, response: ServerResponse): void {
    if (keyId === undefined) return;
    const { socket } = request;
    const calls = this.#sockets.get(keyId) ?? new Map<Socket, number>();
    this.#sockets.set(keyId, calls);
    calls.set(socket, (calls.get(socket) ?? 0) + 1);
    const remove = (): void => {
      const left = (calls.get(socket) ?? 1) - 1;
      if (left > 0) return void calls.set(socket, left);
      calls.delete(socket);
      if (calls.size === 0 && this.#sockets.get(keyId) === calls) this.#sockets.delete(keyId);
    };
    // An upgrade takes the socket from its response, which then never closes.
    if (isWebSocketUpgrade(request)) socket.once("close", remove);
    else response.once("close", remove);
  }

  get keyIds(): readonly string[] {
    return [...this.#sockets.keys()];
  }

  /** Cuts the connections of a key's calls. */
  close(keyId: string): void {
    for (const socket of this.#sockets.get(keyId)?.keys() ?? []) socket.destroy();
  }
}
