import type { SandboxId } from "@opensandbox/wire/ids.ts";

/** The set end of a sandbox. A sandbox with a lifetime has no idle timeout. */
export interface Lifetime {
  readonly sandboxId: SandboxId;
  /** The name by which its creator chose what it starts from. */
  readonly template: string;
  readonly endsAt: Date;
  /** What happens then. */
  readonly atEnd: "delete" | "hibernate";
  /** A call wakes it after it was paused. */
  readonly wakesOnUse: boolean;
  /** A client, or the end, hibernated it. A sandbox that the end of a server hibernated is not paused. */
  readonly paused: boolean;
}

/** How long a paused sandbox lives at least after a call has woken it, in milliseconds. */
const wokenMs = 300_000;

/** The lifetime of a sandbox that a call wakes from its pause. With a past end it would be put away again. */
export function resumed(lifetime: Lifetime, now: number): Lifetime {
  return { ...lifetime, paused: false, endsAt: new Date(Math.max(lifetime.endsAt.getTime(), now + wokenMs)) };
}
