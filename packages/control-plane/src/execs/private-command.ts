import type { AttachedSession, Exec, GuestSessions } from "@opensandbox/wire/worker/sessions.ts";
import { newSessionId } from "./run-command.ts";

/** A command without a public handle: only its caller can reach it. */
export interface PrivateCommand extends AttachedSession {
  readonly sessionId: string;
}

/**
 * Starts a command that is never listed, that keeps no more than its scrollback, and that is killed with everything it
 * has started when the signal aborts or its output is left early. @throws why it cannot be started
 */
export async function startPrivateCommand(
  sessions: GuestSessions,
  command: Exec,
  signal: AbortSignal,
): Promise<PrivateCommand> {
  const sessionId = newSessionId();
  const kept = { purpose: "private", keepOutput: false, whenDetached: "kill", transient: true } as const;
  const attached = await sessions.run({ id: sessionId, command, ...kept }, signal);
  return { sessionId, ...attached };
}
