import type { AgentEventType } from "@opensandbox/wire/public/guests/agent-events.ts";

/** An event of an agent session. Each is one line of JSON. */
export interface Event {
  readonly type: AgentEventType;
  readonly [field: string]: unknown;
}

export type Emit = (event: Event) => void;
