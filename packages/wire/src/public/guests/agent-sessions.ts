import { z } from "zod";
import type { Route } from "../../route.ts";
import type { ExecSession, NewExecSession } from "#worker/sessions.ts";
import { exitCodeOf } from "./execs.ts";
import { KillBody } from "./exec-sessions.ts";
import { envs, plainText } from "../fields.ts";

/** Where the program is in every guest: on the agent disk, so that images need not bring it. */
const agentProgram = "/run/opensandbox/bin/claude-agent-wrapper";

const McpServer = z
  .object({ command: z.string().min(1), args: z.array(z.string()).optional(), env: envs.optional() })
  .meta({ id: "McpServer", description: "A program that offers tools over the Model Context Protocol." });

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
  maxTurns: z
    .int()
    .min(0)
    .optional()
    .meta({ description: "How often the model is asked for one prompt. Default: 50." }),
  cwd: plainText("cwd", "Default: /home/sandbox.").optional(),
  mcpServers: z.record(z.string(), McpServer).optional(),
  resume: z.uuid().optional().meta({ description: "The claude_session_id of a conversation that is to go on." }),
  includePartialMessages: z.boolean().optional().meta({ description: "Tell what the model says while it says it." }),
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
    claudeSessionID: z.string().optional().meta({ description: "The conversation that it was told to resume." }),
  })
  .meta({ id: "AgentSession" });
export type AgentReply = z.infer<typeof AgentReply>;

export const startAgent: Route<StartAgentBody, unknown, AgentReply> = {
  method: "POST",
  path: "/api/sandboxes/:id/agent",
  name: "startAgent",
  summary: "Start an agent in a sandbox",
  description:
    "A program that asks a model and uses tools in the sandbox. It needs ANTHROPIC_API_KEY in its environment, and takes " +
    "ANTHROPIC_BASE_URL and ANTHROPIC_MODEL from there. It is an exec session: attach to that to hear and to write. Its " +
    "stdout is one JSON object a line, whose `type` is `ready`, `configured`, or within a turn `system`, `assistant`, " +
    "`user` (results of tools), `tool_use_summary`, `stream_event`, and then `result`, `interrupted` or `error` (with a " +
    "`message`), and at the very end `turn_complete` (with `claude_session_id`). Its stdin takes such lines: " +
    '`{"type":"prompt","text"}`, `{"type":"interrupt"}`, and `{"type":"configure",...}` with the fields of this body.',
  access: "key",
  body: StartAgentBody,
  status: 201,
  reply: AgentReply,
};

export const listAgents: Route<unknown, unknown, AgentReply[]> = {
  method: "GET",
  path: "/api/sandboxes/:id/agent",
  name: "listAgents",
  summary: "List the agent sessions that run or have ended in the last five minutes",
  description: "They are among the exec sessions as well.",
  access: "key",
  status: 200,
  reply: z.array(AgentReply),
};

export const getAgent: Route<unknown, unknown, AgentReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/agent/:sessionId",
  name: "getAgent",
  summary: "An agent session",
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
  summary: "Ask an agent something",
  description: "It is answered when what was asked before has been.",
  access: "key",
  body: PromptBody,
  status: 204,
};

export const interruptAgent: Route = {
  method: "POST",
  path: "/api/sandboxes/:id/agent/:sessionId/interrupt",
  name: "interruptAgent",
  summary: "End what an agent does, and what it was asked besides",
  description: "The session goes on, with its conversation.",
  access: "key",
  status: 204,
};

export const killAgent: Route<KillBody> = {
  method: "POST",
  path: "/api/sandboxes/:id/agent/:sessionId/kill",
  name: "killAgent",
  summary: "Send a signal to an agent and to what it has started",
  access: "key",
  body: KillBody,
  status: 204,
};

/** The session in the project's own words. */
export function agentFrom(id: string, { envs: variables }: StartAgentBody): NewExecSession {
  return {
    id,
    command: { argv: [agentProgram], stdin: true, ...(variables === undefined ? {} : { envs: variables }) },
    purpose: "agent",
    keepOutput: false,
    whenDetached: "keep",
  };
}

/** What the agent is told when it begins. Undefined: nothing. */
export function firstLines({ prompt, envs: _envs, ...settings }: StartAgentBody): string | undefined {
  // As the clients mean them: an empty text or list is no setting.
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

/** A command as it is written to the agent's standard input. */
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
