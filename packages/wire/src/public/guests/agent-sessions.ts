import { z } from "zod";
import type { Route } from "../../route.ts";
import type { ExecSession, NewExecSession } from "#worker/sessions.ts";
import { exitCodeOf } from "./execs.ts";
import { KillBody } from "./exec-sessions.ts";
import { envs, plainText } from "../fields.ts";

/** The program's path in every guest. It is on the agent disk, so that images need not contain it. */
const agentProgram = "/run/opensandbox/bin/claude-agent-wrapper";

const McpServer = z
  .object({ command: z.string().min(1), args: z.array(z.string()).optional(), env: envs.optional() })
  .meta({ id: "McpServer", description: "A program that provides tools over the Model Context Protocol." });

const AgentSettings = z.object({
  model: z.string().optional().meta({ description: "Default: ANTHROPIC_MODEL of the sandbox's environment." }),
  systemPrompt: z.string().optional(),
  allowedTools: z
    .array(z.string())
    .optional()
    .meta({ description: "Names of tools, such as Bash, Read, Write, Edit or mcp__SERVER__TOOL. Default: all." }),
  permissionMode: z
    .enum(["default", "acceptEdits", "bypassPermissions", "plan"])
    .optional()
    .meta({
      description:
        "bypassPermissions, the default: all tools, or those of allowedTools. acceptEdits: Read, Write, Edit and those of " +
        "allowedTools. default: Read and those of allowedTools. plan: Read.",
    }),
  maxTurns: z.int().min(0).optional().meta({ description: "The model calls for one prompt. Default: 50." }),
  cwd: plainText("cwd", "Default: /home/sandbox.").optional(),
  mcpServers: z.record(z.string(), McpServer).optional(),
  resume: z.uuid().optional().meta({ description: "The claude_session_id of the conversation to resume." }),
  includePartialMessages: z
    .boolean()
    .optional()
    .meta({ description: "Stream the model's text while it is generated." }),
});

export const StartAgentBody = AgentSettings.extend({
  prompt: z.string().optional(),
  envs: envs.optional(),
}).meta({ id: "StartAgent" });
export type StartAgentBody = z.infer<typeof StartAgentBody>;

export const AgentReply = z
  .object({
    sessionID: z.string(),
    sandboxID: z.string(),
    running: z.boolean(),
    exitCode: z.int().optional().meta({ description: "-1 when a signal ended it." }),
    startedAt: z.iso.datetime(),
    claudeSessionID: z.string().optional().meta({ description: "The conversation that the agent resumes." }),
  })
  .meta({ id: "AgentSession" });
export type AgentReply = z.infer<typeof AgentReply>;

export const startAgent: Route<StartAgentBody, unknown, AgentReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/agent",
  name: "startAgent",
  summary: "Start an agent in a sandbox",
  description:
    "An agent is a program that calls a model and uses tools in the sandbox. It requires ANTHROPIC_API_KEY in its " +
    "environment, and reads ANTHROPIC_BASE_URL and ANTHROPIC_MODEL from there. It is an exec session, which clients " +
    "attach to. Its stdout has one JSON object in each line, with the `type` `ready` or `configured`, or within a turn " +
    "`system`, `assistant`, `user` (results of tools), `tool_use_summary` and `stream_event`, then `result`, " +
    "`interrupted` or `error` (with a `message`), and last `turn_complete` (with `claude_session_id`). Its stdin takes " +
    'lines of the form `{"type":"prompt","text"}`, `{"type":"interrupt"}`, and `{"type":"configure",...}` with the ' +
    "fields of this body.",
  access: "key",
  body: StartAgentBody,
  status: 201,
  reply: AgentReply,
};

export const listAgents: Route<unknown, unknown, AgentReply[]> = {
  method: "GET",
  path: "/api/sandboxes/:id/agent",
  name: "listAgents",
  summary: "List agent sessions that run or ended in the last five minutes",
  description: "Agent sessions are listed among the exec sessions too.",
  access: "key",
  status: 200,
  reply: z.array(AgentReply),
};

export const getAgent: Route<unknown, unknown, AgentReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/agent/:sessionId",
  name: "getAgent",
  summary: "Get an agent session",
  access: "key",
  status: 200,
  reply: AgentReply,
};

export const PromptBody = z
  .object({ text: z.string({ error: "text is required" }).min(1, "text is required") })
  .meta({ id: "AgentPrompt" });
export type PromptBody = z.infer<typeof PromptBody>;

export const promptAgent: Route<PromptBody> = {
  method: "POST",
  path: "/api/sandboxes/:id/agent/:sessionId/prompt",
  name: "promptAgent",
  summary: "Send a prompt to an agent",
  description: "Prompts are answered in order.",
  access: "key",
  body: PromptBody,
  status: 204,
};

export const interruptAgent: Route = {
  method: "POST",
  path: "/api/sandboxes/:id/agent/:sessionId/interrupt",
  name: "interruptAgent",
  summary: "Interrupt an agent's turn and drop its queued prompts",
  description: "The session and its conversation continue.",
  access: "key",
  status: 204,
};

export const killAgent: Route<KillBody> = {
  method: "POST",
  path: "/api/sandboxes/:id/agent/:sessionId/kill",
  name: "killAgent",
  summary: "Send a signal to an agent and its processes",
  access: "key",
  body: KillBody,
  status: 204,
};

/** Translates a request into the project's own terms. */
export function agentFrom(id: string, { envs: variables }: StartAgentBody): NewExecSession {
  return {
    id,
    command: { argv: [agentProgram], stdin: true, ...(variables === undefined ? {} : { envs: variables }) },
    purpose: "agent",
    keepOutput: false,
    whenDetached: "keep",
  };
}

/** The first lines of the agent's input. Undefined: none. */
export function firstLines({ prompt, envs: _envs, ...settings }: StartAgentBody): string | undefined {
  // Clients send empty text, lists and 0 for settings that are absent.
  const isSetting = (value: unknown): boolean => value !== undefined && value !== "" && value !== 0;
  const fields = Object.fromEntries(Object.entries(settings).filter(([, value]) => isSetting(value)));
  const lines = [
    ...(Object.keys(fields).length === 0 ? [] : [agentLine({ type: "configure", ...fields })]),
    ...(prompt === undefined || prompt === "" ? [] : [agentLine({ type: "prompt", text: prompt })]),
  ];
  return lines.length === 0 ? undefined : lines.join("");
}

export type AgentCommand =
  | { readonly type: "prompt"; readonly text: string }
  | { readonly type: "interrupt" }
  | { readonly type: "configure"; readonly [setting: string]: unknown };

/** A command as a line of the agent's standard input. */
export function agentLine(command: AgentCommand): string {
  return `${JSON.stringify(command)}\n`;
}

export function agentReplyOf(sandboxId: string, session: ExecSession): AgentReply {
  const { id, end, startedMs } = session;
  return {
    sessionID: id,
    sandboxID: sandboxId,
    running: end === undefined,
    ...(end === undefined ? {} : { exitCode: exitCodeOf(end) }),
    startedAt: new Date(startedMs).toISOString(),
  };
}
