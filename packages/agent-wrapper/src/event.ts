/** What is told of an agent session, one JSON line each. */
export interface Event {
  readonly type: EventType;
  readonly [field: string]: unknown;
}

/**
 * A turn begins with `system`, and its last event is `turn_complete`, however it went: before that come the messages
 * (`assistant`, `user` with the results of tools, `tool_use_summary`), then `result`, `interrupted` or `error`. An
 * `error` outside of a turn is about a command that was not understood.
 */
export type EventType =
  | "ready"
  | "configured"
  | "system"
  | "assistant"
  | "user"
  | "stream_event"
  | "tool_use_summary"
  | "result"
  | "interrupted"
  | "turn_complete"
  | "error";

export type Emit = (event: Event) => void;
