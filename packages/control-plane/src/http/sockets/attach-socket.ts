import type { ClientFrame } from "@opensandbox/wire/public/guests/exec-sessions.ts";
import type { AttachedSession, EndedSession, ExecOutput } from "@opensandbox/wire/worker/sessions.ts";
import type { WebSocket } from "ws";
import { MessageInbox } from "./message-inbox.ts";
import { sendMessage } from "./send-message.ts";
import { StdinQueue } from "./stdin-queue.ts";

/** Translates between a session and the messages of a WebSocket. Undefined: no message. */
export interface SessionWords {
  output(part: ExecOutput | "scrollback end"): Uint8Array | undefined;
  exit(session: EndedSession): Uint8Array | undefined;
  input(message: Buffer): ClientFrame | undefined;
}

/**
 * Passes a session's output to a WebSocket and the socket's messages to its input. Settles when the session has ended and
 * its end was sent; rejects when the line to the guest or to the client breaks before that.
 */
export async function attachSocket(
  socket: WebSocket,
  attached: AttachedSession,
  { words, touch }: { words: SessionWords; touch: () => void },
  signal: AbortSignal,
): Promise<void> {
  const inbox = new MessageInbox(socket);
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
