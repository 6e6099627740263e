import type { IncomingMessage, ServerResponse } from "node:http";
import type { FastifyInstance } from "fastify";

// Time for the client to read the answer before its connection is closed.
const lingerMs = 2000;
// Bodies up to this size are read and dropped: some clients read the answer only after they have sent everything, and
// closing the connection before would lose it.
const smallBytes = 16 * 2 ** 20;

/**
 * Closes the connection after an answer that was sent before the whole body was read. Reading on would waste bandwidth,
 * and closing at once would make the client's kernel drop the answer, so the connection lingers for a moment.
 */
export function closeAfterUnreadBody(app: FastifyInstance): void {
  app.addHook("onRequest", (request, reply, done) => {
    closeAfterUnread(request.raw, reply.raw);
    done();
  });
}

/** Closes the connection of one request after its answer, unless the body was read or is small. */
export function closeAfterUnread(request: IncomingMessage, response: ServerResponse): void {
  response.once("finish", () => {
    const { socket } = request;
    if (request.complete || socket.destroyed) return;
    if (Number(request.headers["content-length"] ?? Infinity) <= smallBytes) {
      // Node resumes by itself only when nothing of the body was read. Afterwards the connection can be reused.
      request.resume();
      return;
    }
    // Deferred: Node resumes the request at this same event, which would undo a pause made now.
    setImmediate(() => socket.pause());
    const timer = setTimeout(() => socket.destroy(), lingerMs);
    socket.once("close", () => clearTimeout(timer));
  });
}
