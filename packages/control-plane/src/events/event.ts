import type { EventFacts, EventType } from "@opensandbox/wire/public/events.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";

/** One thing that happened to a sandbox. */
export interface SandboxEvent {
  /** Rises in the order of the commits. */
  readonly sequence: number;
  readonly id: string;
  readonly organizationId: string;
  readonly sandboxId: SandboxId;
  readonly createdAt: Date;
  readonly facts: EventFacts;
}

/** The events that a reader wants. Absent: all. */
export interface EventSelection {
  readonly organizationId: string;
  readonly sandboxId?: string | undefined;
  readonly types?: readonly EventType[] | undefined;
}
