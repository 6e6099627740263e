import type { GuestSessions } from "@opensandbox/wire/worker/sessions.ts";

/**
 * Writes to the standard input of a session, beside other listeners, by attaching for a moment. Once this settles, only
 * the end of the command can lose the text.
 */
export async function writeToSession(
  sessions: GuestSessions,
  { sessionId, text }: { readonly sessionId: string; readonly text: string },
  signal: AbortSignal,
): Promise<void> {
  const detach = new AbortController();
  const until = AbortSignal.any([signal, detach.signal]);
  const attached = await sessions.attach(sessionId, { fromStart: false }, until);
  // The end of the session concerns its listeners, not this call.
  attached.result.catch(() => undefined);
  try {
    await attached.write(Buffer.from(text));
  } finally {
    detach.abort();
  }
}
