import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";

const unanswered = new WeakMap<Socket, number>();

/** Counts a request until its answer has been sent or its connection has closed. */
export function trackUnanswered({ socket }: IncomingMessage, response: ServerResponse): void {
  unanswered.set(socket, (unanswered.get(socket) ?? 0) + 1);
  response.once("close", () => {
    const left = (unanswered.get(socket) ?? 1) - 1;
    if (left === 0) unanswered.delete(socket);
    else unanswered.set(socket, left);
  });
}

/** Whether earlier requests of the same connection still wait for their answers, as they may when a client pipelines. */
export function hasUnanswered({ socket }: Pick<IncomingMessage, "socket">): boolean {
  return unanswered.has(socket);
}
