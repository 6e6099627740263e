import type { WebSocket } from "ws";
import type { ApiContext } from "../api-context.ts";
import { failureOf } from "../reply-error.ts";
import { answered, type Call } from "../serve.ts";
import { MessageInbox } from "./message-inbox.ts";
import { acceptWebSocket } from "./web-socket.ts";

/** The caller's end of an accepted WebSocket. */
export interface Connection {
  readonly socket: WebSocket;
  readonly inbox: MessageInbox;
}

/**
 * Accepts the WebSocket of a call and closes it after `work`: with 1000, or, when `work` rejects, with 1011 and the
 * error's code, after a text message with the error.
 */
export async function serveSocket(
  { sandboxes, timing }: ApiContext,
  { request, reply }: Pick<Call<unknown, unknown>, "request" | "reply">,
  work: (connection: Connection) => Promise<void>,
): Promise<typeof answered> {
  const socket = await acceptWebSocket(request, reply, timing.keepAliveMs);
  const inbox = new MessageInbox(socket, sandboxes.log);
  try {
    await work({ socket, inbox });
    socket.close(1000);
  } catch (error) {
    const { body } = failureOf(error, request.id, sandboxes);
    socket.send(JSON.stringify(body));
    socket.close(1011, body.code);
  }
  inbox.close();
  return answered;
}
