import { text as readAll } from "node:stream/consumers";
import type { StartAgent } from "@opensandbox/sdk";
import type { Context } from "../../context.ts";
import { choice, list, pairs, text, whole } from "#arguments/inputs.ts";
import { usageError } from "#arguments/usage-error.ts";

/** How an agent works: the options that `run` and `start` share. */
export const agentOptions = {
  env: pairs("an environment variable of the agent and its tools", "e"),
  model: text("NAME", "the model to ask (default: ANTHROPIC_MODEL of its environment)"),
  systemPrompt: text("TEXT", "what it is told before all else"),
  tools: list("the tools it may use, such as Bash,Read,mcp__NAME__TOOL (default: all)"),
  permissionMode: choice("use beside --tools", ["default", "acceptEdits", "bypassPermissions", "plan"]),
  maxTurns: whole("N", "how often the model is asked for one prompt (default: 50)"),
  mcp: pairs("an MCP server, by its name and its line for the shell"),
  cwd: text("DIR", "the directory it works in (default: /home/sandbox)"),
  resume: text("CONVERSATION", "go on with one that was had in the sandbox"),
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

/** What was asked for; the rest is the agent's default. */
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

/** What the words say; `-` alone is standard input. */
export async function promptOf(words: readonly string[], verb: string, { host }: Context): Promise<string> {
  const said = words.length === 1 && words[0] === "-" ? await readAll(host.stdin) : words.join(" ");
  if (said.trim() === "") throw usageError("the prompt is empty", ["agent", verb]);
  return said;
}
