import { text as readAll } from "node:stream/consumers";
import type { StartAgent } from "@opensandbox/sdk";
import type { Context } from "../../context.ts";
import { choice, list, pairs, text, whole } from "#arguments/inputs.ts";
import { usageError } from "#arguments/usage-error.ts";

/** Settings of a new agent, for `run` and `start`. */
export const agentOptions = {
  env: pairs("set an environment variable for the agent and its tools", "e"),
  model: text("NAME", "the model (default: ANTHROPIC_MODEL in the agent's environment)"),
  systemPrompt: text("TEXT", "the system prompt"),
  tools: list("permitted tools, such as Bash,Read,mcp__NAME__TOOL (default: all)"),
  permissionMode: choice("more permitted tools", ["default", "acceptEdits", "bypassPermissions", "plan"]),
  maxTurns: whole("N", "maximum number of model requests for one prompt (default: 50)"),
  mcp: pairs("an MCP server: its name and its shell command line"),
  cwd: text("DIR", "the working directory (default: /home/sandbox)"),
  resume: text("CONVERSATION", "continue an earlier conversation of the sandbox"),
};

interface AgentInput {
  readonly env: Readonly<Record<string, string>>;
  readonly model: string | undefined;
  readonly systemPrompt: string | undefined;
  readonly tools: readonly string[] | undefined;
  readonly permissionMode: StartAgent["permissionMode"] | undefined;
  readonly maxTurns: number | undefined;
  readonly mcp: Readonly<Record<string, string>>;
  readonly cwd: string | undefined;
  readonly resume: string | undefined;
}

/** The settings that were given. The agent has defaults for the others. */
export function agentOf({ env, tools, mcp, ...asked }: AgentInput): StartAgent {
  const settings = Object.entries(asked).filter(([, value]) => value !== undefined);
  const servers = Object.entries(mcp).map(([name, line]) => [name, { command: "/bin/sh", args: ["-c", line] }]);
  return {
    ...Object.fromEntries(settings),
    ...(tools === undefined ? {} : { allowedTools: tools }),
    ...(servers.length === 0 ? {} : { mcpServers: Object.fromEntries(servers) }),
    envs: env,
  };
}

/** The prompt: the words, or standard input for a single `-`. @throws a usage error when it is empty */
export async function promptOf(words: readonly string[], verb: string, { host }: Context): Promise<string> {
  const prompt = words.length === 1 && words[0] === "-" ? await readAll(host.stdin) : words.join(" ");
  if (prompt.trim() === "") throw usageError("the prompt is empty", ["agent", verb]);
  return prompt;
}
