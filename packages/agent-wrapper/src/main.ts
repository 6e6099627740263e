// The program of an agent session. It reads commands as JSON lines from standard input and writes events as JSON lines to
// standard output.
import { homedir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Agent } from "./agent.ts";
import { inputLines, tooLong } from "./input-lines.ts";
import { parseCommand } from "./command.ts";
import { messagesClient } from "./model/messages-client.ts";
import { SavedConversations } from "./saved-conversations.ts";
import type { Emit } from "./event.ts";

const defaultModel = "claude-sonnet-4-5";
const defaultServer = "https://api.anthropic.com";

const env = process.env;
const emit: Emit = (event) => void process.stdout.write(`${JSON.stringify(event)}\n`);

if (!env["ANTHROPIC_API_KEY"] && !env["ANTHROPIC_AUTH_TOKEN"]) {
  emit({ type: "error", message: "ANTHROPIC_API_KEY is not set in the environment of the sandbox" });
  process.exit(1);
}

const agent = new Agent({
  model: messagesClient({
    baseUrl: env["ANTHROPIC_BASE_URL"] || defaultServer,
    apiKey: env["ANTHROPIC_API_KEY"] || undefined,
    authToken: env["ANTHROPIC_AUTH_TOKEN"] || undefined,
    pause: async (milliseconds, signal) => await sleep(milliseconds, undefined, { signal }),
  }),
  settings: { model: env["ANTHROPIC_MODEL"] || defaultModel, cwd: process.cwd() },
  conversations: new SavedConversations(join(homedir(), ".claude-agent-wrapper", "sessions")),
  environment: env,
  emit,
});

emit({ type: "ready" });
for await (const line of inputLines(process.stdin)) {
  const command = line === tooLong ? "the line is longer than 16 MiB" : parseCommand(line);
  if (typeof command === "string") emit({ type: "error", message: command });
  else agent.take(command);
}
// At the end of input the accepted prompts are still answered.
await agent.finish();
