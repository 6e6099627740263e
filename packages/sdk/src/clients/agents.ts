import {
  agentLine,
  getAgent,
  interruptAgent,
  killAgent,
  listAgents,
  promptAgent,
  startAgent,
} from "@opensandbox/wire/public/guests/agent-sessions.ts";
import type { AgentCommand, AgentReply, StartAgentBody } from "@opensandbox/wire/public/guests/agent-sessions.ts";
import { attachSession } from "@opensandbox/wire/public/guests/exec-sessions.ts";
import type { ExecOutput } from "./exec.ts";
import type { HttpClient } from "#transport/http.ts";
import { attached } from "./sessions.ts";
import type { OpenSocket } from "#transport/socket.ts";

/** How an agent works. What is absent is as it was, or the default. */
export interface AgentSettings {
  /** Default: `ANTHROPIC_MODEL` of its environment. */
  readonly model?: string;
  readonly systemPrompt?: string;
  /** Names of tools, such as `Bash`, `Read`, `Write`, `Edit` or `mcp__SERVER__TOOL`. Default: all. */
  readonly allowedTools?: readonly string[];
  /** What it may use beside `allowedTools`. Default: `bypassPermissions`, everything where none are named. */
  readonly permissionMode?: "default" | "acceptEdits" | "bypassPermissions" | "plan";
  /** How often the model is asked for one prompt. Default: 50. */
  readonly maxTurns?: number;
  /** Default: the user's home. */
  readonly cwd?: string;
  /** Programs that offer tools over the Model Context Protocol, by name. */
  readonly mcpServers?: Readonly<Record<string, McpServer>>;
  /** A conversation that is to go on: `claude_session_id` of the event `turn_complete`. */
  readonly resume?: string;
  /** Tell what the model says while it says it, as events of type `stream_event`. */
  readonly includePartialMessages?: boolean;
}

export interface McpServer {
  readonly command: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export interface StartAgent extends AgentSettings {
  readonly prompt?: string;
  /** Environment variables of the agent and its tools. */
  readonly envs?: Readonly<Record<string, string>>;
}

/** A program in the sandbox that asks a model and uses tools. It goes on whoever listens. */
export interface Agent {
  readonly id: string;
  readonly running: boolean;
  /** -1 when a signal ended it. */
  readonly exitCode?: number;
  readonly startedAt: string;
}

/**
 * What an agent tells. A turn is what follows a prompt: `system`, then `assistant`, `user` (results of tools) and
 * `tool_use_summary`, then `result`, `interrupted` or `error` (with a `message`), and at its very end `turn_complete`.
 * Outside of turns there are `ready`, `configured` and `error`. `log` is what the program says that is no event.
 */
export interface AgentEvent {
  readonly type:
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
    | "error"
    | "log"
    | (string & {});
  readonly [field: string]: unknown;
}

/** One listener of an agent. Leaving it, or aborting its signal, does not end the agent. */
export interface AttachedAgent {
  readonly id: string;
  /** What is kept of the events before, then what is new; one iteration, which can be stopped and gone on with. */
  readonly events: AsyncIterable<AgentEvent>;
  /** Settles when `events` has ended; rejects when the connection ended before the agent, which goes on. */
  readonly exitCode: Promise<number>;
  /** Asks it something; it is answered when what was asked before has been. */
  prompt(text: string): Promise<void>;
  /** Ends what it does, and what it was asked besides; the conversation stays. */
  interrupt(): Promise<void>;
  /** From the next prompt on. */
  configure(settings: AgentSettings): Promise<void>;
  /** Nothing more is asked: it ends when what was asked before has been answered. */
  end(): Promise<void>;
  /** A signal to the agent and to what it has started. Default: 9. */
  kill(number?: number): Promise<void>;
  detach(): void;
}

export interface AgentsClient {
  start(id: string, request: StartAgent, signal?: AbortSignal): Promise<Agent>;
  /** Those that run or have ended in the last five minutes. */
  list(id: string, signal?: AbortSignal): Promise<readonly Agent[]>;
  get(id: string, agentId: string, signal?: AbortSignal): Promise<Agent>;
  attach(id: string, agentId: string, signal?: AbortSignal): Promise<AttachedAgent>;
  prompt(id: string, agentId: string, text: string, signal?: AbortSignal): Promise<void>;
  interrupt(id: string, agentId: string, signal?: AbortSignal): Promise<void>;
  /** A signal to the agent and to what it has started. Default: 9. */
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
      const session = attached(await openSocket(http.socketUrl(attachSession, { id, sessionId: agentId }), signal));
      const tell = async (command: AgentCommand): Promise<void> => {
        await session.write(new TextEncoder().encode(agentLine(command)));
      };
      return {
        id: agentId,
        events: resumable(eventsOf(session.output)),
        exitCode: session.exitCode,
        prompt: async (text) => await tell({ type: "prompt", text }),
        interrupt: async () => await tell({ type: "interrupt" }),
        configure: async (settings) => await tell({ type: "configure", ...settings }),
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
    // What is kept of an old session may begin in the middle of a line.
  }
  return { type: "log", text: line };
}

/** Leaving a loop over it does not end it: a conversation is heard turn by turn. */
function resumable<T>(generator: AsyncGenerator<T, void>): AsyncIterable<T> {
  return { [Symbol.asyncIterator]: () => ({ next: async () => await generator.next() }) };
}

function agentOf({ sessionID, running, exitCode, startedAt }: AgentReply): Agent {
  const known = { id: sessionID, running, startedAt };
  return exitCode === undefined ? known : { ...known, exitCode };
}
