import type { ClientFrame } from "@opensandbox/wire/public/guests/exec-sessions.ts";
import type { AttachedSession, EndedSession, ExecOutput } from "@opensandbox/wire/worker/sessions.ts";
import type { WebSocket } from "ws";
import type { Log } from "../../log.ts";
import { MessageInbox } from "./message-inbox.ts";
import { sendMessage } from "./send-message.ts";
import { StdinQueue } from "./stdin-queue.ts";

/** How a session's events are encoded on a WebSocket. Undefined: not sent. */
export interface SessionWords {
  output(part: ExecOutput | "scrollback end"): Uint8Array | undefined;
  exit(session: EndedSession): Uint8Array | undefined;
  input(message: Buffer): ClientFrame | undefined;
}

/**
 * Sends a session's output to a WebSocket and the socket's messages to its input. Resolves when the client has received the
 * session's end. Rejects when the connection to the guest or to the client ends first.
 */
export async function attachSocket(
  socket: WebSocket,
  attached: AttachedSession,
  { words, touch, log }: { words: SessionWords; touch: () => void; log: Log },
  signal: AbortSignal,
): Promise<void> {
  // The result may reject while output is still being read; it is awaited after that.
  attached.result.catch(() => {});
  const inbox = new MessageInbox(socket, log);
  const stdin = new StdinQueue(attached, {
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    taken: () => {},
  });
  inbox.forEach(({ data }) => {
    touch();
    const frame = words.input(data);
    if (frame?.kind === "stdin") stdin.write(frame.bytes);
    else if (frame?.kind === "stdin end") stdin.end();
  });
  try {
    for await (const part of attached.output) {
      touch();
      const message = words.output(part);
      if (message !== undefined && message.length > 0) await sendMessage(socket, message, signal);
    }
    const exit = words.exit(await attached.result);
    if (exit !== undefined) await sendMessage(socket, exit, signal);
  } finally {
    inbox.close();
  }
}
