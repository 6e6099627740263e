import type { Configure } from "./command.ts";
import type { Emit } from "./event.ts";
import type { McpServers } from "./mcp/mcp-servers.ts";
import {
  type ContentBlock,
  isToolUse,
  type Message,
  type ModelMessage,
  textOf,
  type ToolUse,
} from "./model/message.ts";
import { brokenInput, shortened } from "./model/message-builder.ts";
import { ModelError } from "./model/model-error.ts";
import type { Model } from "./model/messages-client.ts";
import { ownTools, permitted } from "./tools/tools.ts";
import type { Tool, ToolPlace, ToolResult } from "./tools/tool.ts";

export type TurnSettings = Required<Omit<Configure, "resume" | "systemPrompt">> & {
  readonly systemPrompt: string | undefined;
};

export interface Turn {
  readonly text: string;
  readonly settings: TurnSettings;
  /** The conversation. The turn appends to it and leaves it valid for the next turn, however this one ends. */
  readonly messages: Message[];
  readonly model: Model;
  readonly mcpServers: McpServers;
  readonly emit: Emit;
}

/** Asks the model and runs the tools that it requests, until it requests none. Never rejects. */
export async function runTurn(turn: Turn, signal: AbortSignal): Promise<void> {
  const { settings, messages, emit } = turn;
  const startedMs = performance.now();
  messages.push({ role: "user", content: [{ type: "text", text: turn.text }] });
  const usage: Record<string, number> = {};
  try {
    const tools = await toolsOf(turn);
    for (let count = 1; count <= settings.maxTurns; count += 1) {
      const { message, interrupted } = await ask(turn, tools, signal);
      addUsage(usage, message.usage);
      if (interrupted || signal.aborted) {
        keep(messages, textBlocks(message.content));
        emit({ type: "interrupted" });
        return;
      }
      keep(messages, message.content);
      emit({ type: "assistant", message: { type: "message", ...message }, parent_tool_use_id: null });
      const uses = message.content.filter(isToolUse);
      if (uses.length === 0) {
        emit(resultOf("success", { message, count, startedMs, usage }));
        return;
      }
      await useTools(turn, { tools, uses }, signal);
      if (signal.aborted) {
        emit({ type: "interrupted" });
        return;
      }
    }
    emit(resultOf("error_max_turns", { count: settings.maxTurns, startedMs, usage }));
  } catch (error) {
    const known = error instanceof ModelError;
    emit({
      type: "error",
      message: known ? error.message : `internal error of the agent: ${(error as Error).stack ?? String(error)}`,
    });
  }
}

async function toolsOf({ settings, mcpServers, emit }: Turn): Promise<readonly Tool[]> {
  const { permissionMode, allowedTools, model, cwd } = settings;
  const statuses = await mcpServers.provide(settings.mcpServers, cwd);
  const tools = permitted([...ownTools, ...mcpServers.tools()], permissionMode, allowedTools);
  emit({
    ...{ type: "system", subtype: "init", model, cwd, permissionMode },
    ...{ tools: tools.map(({ name }) => name), mcp_servers: statuses },
  });
  return tools;
}

async function ask({ settings, messages, model, emit }: Turn, tools: readonly Tool[], signal: AbortSignal) {
  const system = settings.systemPrompt ?? defaultSystemPrompt(settings.cwd);
  const descriptions = tools.map(({ name, description, input_schema }) => ({ name, description, input_schema }));
  return await model.ask(
    { model: settings.model, system, messages, tools: descriptions },
    {
      event: (event) => {
        if (settings.includePartialMessages) emit({ type: "stream_event", event, parent_tool_use_id: null });
      },
      retry: (error, attempt, pauseMs) => {
        emit({ type: "system", subtype: "api_retry", attempt, retry_delay_ms: pauseMs, error: error.message });
      },
    },
    signal,
  );
}

/** Runs tools in the order of the request. Each gets a result, even after an interrupt. */
async function useTools(
  { settings, messages, emit }: Turn,
  { tools, uses }: { readonly tools: readonly Tool[]; readonly uses: readonly ToolUse[] },
  signal: AbortSignal,
): Promise<void> {
  const results: ContentBlock[] = [];
  const summary: string[] = [];
  for (const use of uses) {
    const tool = tools.find(({ name }) => name === use.name);
    const { text, isError } = await resultOfUse(use, tool, { cwd: settings.cwd, signal });
    // The API refuses empty text.
    results.push({ type: "tool_result", tool_use_id: use.id, content: text || "(no output)", is_error: isError });
    summary.push(`${use.name}${isError ? " failed" : ""}: ${shortened(JSON.stringify(use.input), 200)}`);
  }
  const message: Message = { role: "user", content: results };
  messages.push(message);
  emit({ type: "user", message, parent_tool_use_id: null });
  emit({ type: "tool_use_summary", summary: summary.join("\n"), preceding_tool_use_ids: uses.map(({ id }) => id) });
}

async function resultOfUse({ name, input }: ToolUse, tool: Tool | undefined, place: ToolPlace): Promise<ToolResult> {
  if (place.signal.aborted) return { text: "(interrupted by the user)", isError: true };
  if (tool === undefined) return { text: `the tool ${name} does not exist or is not permitted`, isError: true };
  if (brokenInput in input) return { text: "the input is not a complete JSON object", isError: true };
  try {
    return await tool.run(input, place);
  } catch (error) {
    return { text: (error as Error).message, isError: true };
  }
}

/** The API refuses a message without content. */
function keep(messages: Message[], content: readonly ContentBlock[]): void {
  if (content.length > 0) messages.push({ role: "assistant", content });
}

/** The part of an interrupted message that can stay: a tool use would need a result. */
function textBlocks(content: readonly ContentBlock[]): ContentBlock[] {
  return content.filter(({ type }) => type === "text");
}

interface TurnResult {
  readonly message?: ModelMessage;
  /** The number of requests to the model. */
  readonly count: number;
  readonly startedMs: number;
  readonly usage: Readonly<Record<string, number>>;
}

function resultOf(subtype: "success" | "error_max_turns", { message, count, startedMs, usage }: TurnResult) {
  return {
    ...{ type: "result" as const, subtype, is_error: subtype !== "success" },
    ...{ duration_ms: Math.round(performance.now() - startedMs), num_turns: count },
    ...(message === undefined ? {} : { result: textOf(message.content), stop_reason: message.stop_reason }),
    usage,
  };
}

function addUsage(sum: Record<string, number>, usage: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(usage)) {
    if (typeof value === "number") sum[name] = (sum[name] ?? 0) + value;
  }
}

function defaultSystemPrompt(cwd: string): string {
  return (
    "You are an agent with a Linux machine of your own. Use your tools to complete the task, verify the result, and " +
    `finish with a summary of what you did. You cannot ask questions meanwhile. The working directory is ${cwd}.`
  );
}
