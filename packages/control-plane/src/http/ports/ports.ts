import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId, type SandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/guests/ports.ts";
import type { PortConnection } from "@opensandbox/wire/worker/ports.ts";
import type { FastifyInstance } from "fastify";
import type { WebSocket } from "ws";
import type { Use } from "#lifecycle/activity.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import { openGuestPort } from "#previews/open-guest-port.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";
import type { MessageInbox } from "../sockets/message-inbox.ts";
import { sendMessage } from "../sockets/send-message.ts";
import { type Connection, serveSocket } from "../sockets/serve-socket.ts";

/** TCP connections to servers in sandboxes, over WebSockets. */
export function servePorts(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes } = api;
  serve(app, sandboxes.shutdown.ending, wire.openPort, async (call) => {
    const { organizationId } = call;
    const id = parseSandboxId(call.parameter("id"));
    const port = wire.parsePort(call.parameter("port"));
    await sandboxes.stores.sandboxes.get(organizationId, id);
    return await serveSocket(api, call, (connection) => join(api, { ...connection, organizationId, id, port }));
  });
}

interface Joined extends Connection {
  readonly organizationId: string;
  readonly id: SandboxId;
  readonly port: number;
}

/** Resolves when the server in the sandbox has ended the connection. */
async function join({ sandboxes }: ApiContext, { socket, inbox, organizationId, id, port }: Joined): Promise<void> {
  const ended = new AbortController();
  socket.once("close", () => ended.abort(new SandboxError("canceled", "the client disconnected")));
  const signal = AbortSignal.any([ended.signal, sandboxes.shutdown.ending]);
  try {
    using use = await useSandbox(sandboxes, organizationId, id, signal);
    const connection = await openGuestPort(sandboxes.worker, id, port, signal);
    // An open connection keeps no sandbox awake; its traffic does.
    use[Symbol.dispose]();
    takeInput(socket, inbox, connection, use, (error) => ended.abort(error));
    for await (const bytes of connection.incoming) {
      use.touch();
      await sendMessage(socket, bytes, signal);
    }
  } catch (error) {
    throw ended.signal.aborted ? ended.signal.reason : error;
  } finally {
    // Ends the connection to the server.
    ended.abort();
  }
}

/** Passes messages on, one after the other; the client is not read while the server does not read. */
function takeInput(
  socket: WebSocket,
  inbox: MessageInbox,
  connection: PortConnection,
  use: Use,
  fail: (error: unknown) => void,
): void {
  let last = Promise.resolve();
  let waiting = 0;
  inbox.forEach(({ data, isBinary }) => {
    use.touch();
    if (!isBinary && data.toString("utf8") !== wire.endOfInput) {
      return fail(new SandboxError("invalid_argument", `a text message must be "${wire.endOfInput}"`));
    }
    waiting += 1;
    socket.pause();
    last = last
      .then(() => (isBinary ? connection.write(data) : connection.end()))
      .then(() => {
        waiting -= 1;
        if (waiting === 0) socket.resume();
      });
    last.catch(fail);
  });
}
