/** The type of an event that an agent writes. Each event is one line of JSON; `AgentEvent` of the SDK describes a turn. */
export type AgentEventType =
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
