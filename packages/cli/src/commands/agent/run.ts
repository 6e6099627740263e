import type { AttachedAgent, Client } from "@opensandbox/sdk";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { one, some } from "#arguments/inputs.ts";
import { exitCodeOf, type InterruptName } from "../../interrupts.ts";
import { agentOf, agentOptions, promptOf } from "./agent-options.ts";
import { printEvent } from "./print-event.ts";

// Bounds the clean-up when the server does not answer.
const killTimeoutMs = 10_000;

export const run = defineCommand({
  summary: "Run an agent in a sandbox for one prompt",
  description: `Prints the agent's answers to standard output and its tool uses to standard error; with --json, prints each event
as a line of JSON. A PROMPT of - is read from standard input. The agent needs ANTHROPIC_API_KEY, from --env or from the
sandbox's environment, and also uses ANTHROPIC_BASE_URL and ANTHROPIC_MODEL.

Exits when the prompt is answered: with 0, or with 1 after a failure. Ctrl-C interrupts the agent; a second Ctrl-C kills
it.`,
  arguments: { id: one("SANDBOX"), prompt: some("PROMPT") },
  options: agentOptions,
  examples: [
    {
      line: 'agent run -e ANTHROPIC_API_KEY="$ANTHROPIC_API_KEY" sb-1a2b3c4d fix the tests',
      shows: "give an agent a task",
    },
    {
      line: "osb agent run --permission-mode plan sb-1a2b3c4d - < task.md",
      shows: "read the task from a file, without permission to change anything",
    },
    {
      line: "agent run --resume 5f0d3e5d-0667-43b1-a989-ffccae31a58c sb-1a2b3c4d now the linter",
      shows: "continue a conversation",
    },
  ],
  async run({ id, prompt, ...asked }, context) {
    const request = { ...agentOf(asked), prompt: await promptOf(prompt, "run", context) };
    const { agents } = await context.client();
    using held = holdInterrupts(context);
    let agent: AttachedAgent | undefined;
    try {
      // Even after an interrupt, wait for the start: the agent would otherwise run unattended.
      const started = await agents.start(id, request, held.ended);
      agent = await agents.attach(id, started.id, held.ended);
      held.pass(agent);
      const answered = await readAnswer(agent, context);
      const exitCode = await agent.exitCode;
      agent = undefined;
      if (held.last !== undefined) return exitCodeOf(held.last);
      return answered && exitCode === 0 ? 0 : 1;
    } catch (error) {
      if (held.ended.aborted && held.last !== undefined && isSandboxError(error)) return exitCodeOf(held.last);
      throw error;
    } finally {
      if (agent !== undefined) await killQuietly(agents, id, agent);
    }
  },
});

/** Kills the agent. A failure is not reported: the reason for the kill matters more. */
async function killQuietly(agents: Client["agents"], id: string, agent: AttachedAgent): Promise<void> {
  await agents.kill(id, agent.id, undefined, AbortSignal.timeout(killTimeoutMs)).catch(() => undefined);
}

/** Prints events until the agent ends. Returns false after an error. */
async function readAnswer(agent: AttachedAgent, context: Context): Promise<boolean> {
  let answered = true;
  for await (const event of agent.events) {
    await printEvent(event, context);
    if (event.type === "error" || event["is_error"] === true) answered = false;
    if (event.type !== "turn_complete") continue;
    if (!context.globals.json)
      context.note(`--resume ${String(event["claude_session_id"])} continues this conversation`);
    await agent.end();
  }
  return answered;
}

interface HeldInterrupts extends Disposable {
  readonly last: InterruptName | undefined;
  /** Aborts at the second interrupt. */
  readonly ended: AbortSignal;
  /** Passes the first interrupt on to the agent, even one from before this call. */
  pass(agent: AttachedAgent): void;
}

function holdInterrupts({ host }: Context): HeldInterrupts {
  const ended = new AbortController();
  let agent: AttachedAgent | undefined;
  let last: InterruptName | undefined;
  // The call fails when the agent has just ended, and then the agent's end arrives anyway.
  const interrupt = (): void => void agent?.interrupt().catch(() => undefined);
  const taken = host.interrupts.take((name) => {
    if (last !== undefined) ended.abort(new SandboxError("canceled", "canceled"));
    last = name;
    interrupt();
  });
  return {
    get last() {
      return last;
    },
    ended: ended.signal,
    pass(started) {
      agent = started;
      if (last !== undefined) interrupt();
    },
    [Symbol.dispose]: () => taken[Symbol.dispose](),
  };
}
