import type { FastifyInstance } from "fastify";

// Time for the caller to see the answer before its connection is cut.
const lingerMs = 2000;

/**
 * An answer given before the whole request has been read is the end of the connection. Reading on would swallow what
 * nobody wants; closing at once would make the caller's system drop the answer. So it is left alone for a moment.
 */
export function closeAfterUnreadBody(app: FastifyInstance): void {
  app.addHook("onRequest", (request, reply, done) => {
    reply.raw.once("finish", () => {
      const { socket } = request.raw;
      if (request.raw.complete || socket.destroyed) return;
      // Later: Node drops the rest of a request at this same event, and its resuming would undo a pause made now.
      setImmediate(() => socket.pause());
      const timer = setTimeout(() => socket.destroy(), lingerMs);
      socket.once("close", () => clearTimeout(timer));
    });
    done();
  });
}
