import type { IncomingMessage, ServerResponse } from "node:http";
import type { FastifyInstance } from "fastify";

// Time for the caller to see the answer before its connection is cut.
const lingerMs = 2000;
// Bodies up to this are swallowed: their senders may look for an answer only when they have sent all, and a connection
// that is cut before would lose it.
const smallBytes = 16 * 2 ** 20;

/**
 * An answer given before the whole request has been read is the end of the connection. Reading on would swallow what
 * nobody wants; closing at once would make the caller's system drop the answer. So it is left alone for a moment.
 */
export function closeAfterUnreadBody(app: FastifyInstance): void {
  app.addHook("onRequest", (request, reply, done) => {
    closeAfterUnread(request.raw, reply.raw);
    done();
  });
}

/** The same for one request. */
export function closeAfterUnread(request: IncomingMessage, response: ServerResponse): void {
  response.once("finish", () => {
    const { socket } = request;
    if (request.complete || socket.destroyed) return;
    if (Number(request.headers["content-length"] ?? Infinity) <= smallBytes) {
      // Node reads on by itself only where nothing of the body was read. Then the connection can be used again.
      request.resume();
      return;
    }
    // Later: Node drops the rest of a request at this same event, and its resuming would undo a pause made now.
    setImmediate(() => socket.pause());
    const timer = setTimeout(() => socket.destroy(), lingerMs);
    socket.once("close", () => clearTimeout(timer));
  });
}
