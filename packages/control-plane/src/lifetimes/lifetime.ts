import type { SandboxId } from "@opensandbox/wire/ids.ts";

/** The set end of a sandbox. A sandbox with a lifetime has no idle timeout. */
export interface Lifetime {
  readonly sandboxId: SandboxId;
  /** The template that the create named. */
  readonly template: string;
  readonly endsAt: Date;
  /** What happens at the end. */
  readonly atEnd: "delete" | "hibernate";
  /** Whether a call wakes the sandbox from a pause. */
  readonly wakesOnUse: boolean;
  /**
   * Whether a client, or its end, hibernated the sandbox. A sandbox hibernated at a server's shutdown is not paused.
   */
  readonly paused: boolean;
}

/** The least time that a paused sandbox lives after a call has woken it, in milliseconds. */
const wokenMs = 300_000;

/**
 * The lifetime of a sandbox after a call has woken it from its pause. An end that has passed moves into the future:
 * otherwise the sandbox would be paused again at once.
 */
export function resumed(lifetime: Lifetime, now: number): Lifetime {
  return { ...lifetime, paused: false, endsAt: new Date(Math.max(lifetime.endsAt.getTime(), now + wokenMs)) };
}
