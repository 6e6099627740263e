/** A content block of the Messages API: text, a tool use, a tool result, or a type that is unknown here. */
export interface ContentBlock {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** One entry of a conversation. */
export interface Message {
  readonly role: "user" | "assistant";
  readonly content: readonly ContentBlock[];
}

/** An answer of the model. */
export interface ModelMessage extends Message {
  readonly role: "assistant";
  readonly id: string;
  readonly model: string;
  readonly stop_reason: string | null;
  readonly usage: Readonly<Record<string, unknown>>;
}

export interface ToolUse extends ContentBlock {
  readonly type: "tool_use";
  readonly id: string;
  readonly name: string;
  readonly input: Readonly<Record<string, unknown>>;
}

export interface ToolDescription {
  readonly name: string;
  readonly description: string;
  readonly input_schema: Readonly<Record<string, unknown>>;
}

export function isToolUse(block: ContentBlock): block is ToolUse {
  return block.type === "tool_use";
}

export function textOf(content: readonly ContentBlock[]): string {
  return content.flatMap(({ type, text }) => (type === "text" && typeof text === "string" ? [text] : [])).join("");
}
