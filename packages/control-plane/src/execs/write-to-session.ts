import type { GuestSessions } from "@opensandbox/wire/worker/sessions.ts";

/**
 * Writes to the standard input of a session by attaching to it for a moment, whoever else is attached. Settles when it
 * is on its way to the command and cannot be lost but with it.
 */
export async function writeToSession(
  sessions: GuestSessions,
  { sessionId, text }: { readonly sessionId: string; readonly text: string },
  signal: AbortSignal,
): Promise<void> {
  const detach = new AbortController();
  const until = AbortSignal.any([signal, detach.signal]);
  const attached = await sessions.attach(sessionId, { fromStart: false }, until);
  // Its end is looked at by those who listen.
  attached.result.catch(() => undefined);
  try {
    await attached.write(Buffer.from(text));
  } finally {
    detach.abort();
  }
}
