import {
  agentLine,
  getAgent,
  interruptAgent,
  killAgent,
  listAgents,
  promptAgent,
  startAgent,
} from "@opensandbox/wire/public/guests/agent-sessions.ts";
import type { AgentEventType } from "@opensandbox/wire/public/guests/agent-events.ts";
import type { AgentCommand, AgentReply, StartAgentBody } from "@opensandbox/wire/public/guests/agent-sessions.ts";
import { attachSession } from "@opensandbox/wire/public/guests/exec-sessions.ts";
import type { ExecOutput } from "./exec.ts";
import type { HttpClient } from "#transport/http.ts";
import { attached } from "./sessions.ts";
import type { OpenSocket } from "#transport/socket.ts";

/** An agent's settings. An absent setting keeps its value, at first the default. */
export interface AgentSettings {
  /** Default: `ANTHROPIC_MODEL` of the agent's environment. */
  readonly model?: string;
  readonly systemPrompt?: string;
  /** Names of tools, such as `Bash`, `Read`, `Write`, `Edit` or `mcp__SERVER__TOOL`. Default: all. */
  readonly allowedTools?: readonly string[];
  /** Tools permitted in addition to `allowedTools`. Default: `bypassPermissions`, every tool if `allowedTools` is empty. */
  readonly permissionMode?: "default" | "acceptEdits" | "bypassPermissions" | "plan";
  /** Maximum number of model requests for one prompt. Default: 50. */
  readonly maxTurns?: number;
  /** Default: the user's home. */
  readonly cwd?: string;
  /** Model Context Protocol servers, by name. Each is a program that speaks on standard input and output. */
  readonly mcpServers?: Readonly<Record<string, McpServer>>;
  /** The conversation to continue: `claude_session_id` of a `turn_complete` event. */
  readonly resume?: string;
  /** Also report partial answers, as events of type `stream_event`. Default: false. */
  readonly includePartialMessages?: boolean;
}

export interface McpServer {
  readonly command: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export interface StartAgent extends AgentSettings {
  readonly prompt?: string;
  /** Environment variables for the agent and its tools. */
  readonly envs?: Readonly<Record<string, string>>;
}

/** A program in the sandbox that asks a model and uses tools. It runs without a client. */
export interface Agent {
  readonly id: string;
  readonly running: boolean;
  /** -1: ended by a signal. */
  readonly exitCode?: number;
  readonly startedAt: string;
}

/**
 * An event of an agent. A prompt starts a turn: `system`, then `assistant`, `user` (tool results) and `tool_use_summary`,
 * then `result`, `interrupted` or `error` (with a `message`), and last `turn_complete`. Between turns an agent reports
 * `ready`, `configured` and `error`. `log` carries output of the program that is not an event.
 */
export interface AgentEvent {
  readonly type: AgentEventType | "log" | (string & {});
  readonly [field: string]: unknown;
}

/** A connection to an agent. Closing it, or aborting its signal, leaves the agent running. */
export interface AttachedAgent {
  readonly id: string;
  /** The kept events, then new ones. A loop over them may be left and started again; it continues. */
  readonly events: AsyncIterable<AgentEvent>;
  /** Settles when `events` ends. Rejects when the connection ends before the agent does. */
  readonly exitCode: Promise<number>;
  /** Queues a prompt behind the earlier ones. */
  prompt(text: string): Promise<void>;
  /** Ends the current turn and drops queued prompts. The conversation continues with the next prompt. */
  interrupt(): Promise<void>;
  /** Changes settings, for prompts after this call. */
  configure(settings: AgentSettings): Promise<void>;
  /** Accepts no more prompts. The agent ends when the queued ones are answered. */
  end(): Promise<void>;
  /** Sends a signal to the agent and its child processes. Default: 9. */
  kill(number?: number): Promise<void>;
  detach(): void;
}

export interface AgentsClient {
  start(id: string, request: StartAgent, signal?: AbortSignal): Promise<Agent>;
  /** The agents that run or ended within the last five minutes. */
  list(id: string, signal?: AbortSignal): Promise<readonly Agent[]>;
  get(id: string, agentId: string, signal?: AbortSignal): Promise<Agent>;
  attach(id: string, agentId: string, signal?: AbortSignal): Promise<AttachedAgent>;
  prompt(id: string, agentId: string, text: string, signal?: AbortSignal): Promise<void>;
  interrupt(id: string, agentId: string, signal?: AbortSignal): Promise<void>;
  /** Sends a signal to the agent and its child processes. Default: 9. */
  kill(id: string, agentId: string, number?: number, signal?: AbortSignal): Promise<void>;
}

export function agentsClient(http: HttpClient, openSocket: OpenSocket): AgentsClient {
  const client: AgentsClient = {
    async start(id, request, signal) {
      return agentOf(await http.call(startAgent, { parameters: { id }, body: request as StartAgentBody }, signal));
    },
    async list(id, signal) {
      return (await http.call(listAgents, { parameters: { id } }, signal)).map(agentOf);
    },
    async get(id, agentId, signal) {
      return agentOf(await http.call(getAgent, { parameters: { id, sessionId: agentId } }, signal));
    },
    async attach(id, agentId, signal) {
      const session = attached(
        await openSocket(await http.socketUrl(attachSession, { id, sessionId: agentId }), signal),
      );
      const send = async (command: AgentCommand): Promise<void> => {
        await session.write(new TextEncoder().encode(agentLine(command)));
      };
      return {
        id: agentId,
        events: resumable(eventsOf(session.output)),
        exitCode: session.exitCode,
        prompt: async (text) => await send({ type: "prompt", text }),
        interrupt: async () => await send({ type: "interrupt" }),
        configure: async (settings) => await send({ type: "configure", ...settings }),
        end: async () => await session.closeStdin(),
        kill: async (number) => await client.kill(id, agentId, number),
        detach: () => session.detach(),
      };
    },
    async prompt(id, agentId, text, signal) {
      await http.call(promptAgent, { parameters: { id, sessionId: agentId }, body: { text } }, signal);
    },
    async interrupt(id, agentId, signal) {
      await http.call(interruptAgent, { parameters: { id, sessionId: agentId } }, signal);
    },
    async kill(id, agentId, number, signal) {
      const body = number === undefined ? {} : { signal: number };
      await http.call(killAgent, { parameters: { id, sessionId: agentId }, body }, signal);
    },
  };
  return client;
}

async function* eventsOf(output: AsyncIterable<ExecOutput>): AsyncGenerator<AgentEvent, void> {
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
  let rest = "";
  for await (const { pipe, bytes } of output) {
    const text = decoders[pipe].decode(bytes, { stream: true });
    if (pipe === "stderr") {
      yield { type: "log", text };
      continue;
    }
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.trim() !== "") yield eventOf(line);
  }
  if (rest.trim() !== "") yield eventOf(rest);
}

function eventOf(line: string): AgentEvent {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === "object" && value !== null && "type" in value) return value as AgentEvent;
  } catch {
    // The kept output of a long session may start in the middle of a line.
  }
  return { type: "log", text: line };
}

/** Leaving a loop does not end the generator, so that a conversation can be read turn by turn. */
function resumable<T>(generator: AsyncGenerator<T, void>): AsyncIterable<T> {
  return { [Symbol.asyncIterator]: () => ({ next: async () => await generator.next() }) };
}

function agentOf({ sessionID, running, exitCode, startedAt }: AgentReply): Agent {
  const known = { id: sessionID, running, startedAt };
  return exitCode === undefined ? known : { ...known, exitCode };
}
