/** An event of an agent session. Each is one line of JSON. */
export interface Event {
  readonly type: EventType;
  readonly [field: string]: unknown;
}

/**
 * A turn starts with `system` and always ends with `turn_complete`. Between them are the messages (`assistant`, `user` with
 * tool results, `tool_use_summary`), then `result`, `interrupted` or `error`. An `error` outside of a turn concerns an
 * invalid command.
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
