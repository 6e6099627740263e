import type { AttachedAgent, Client } from "@opensandbox/sdk";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { one, some } from "#arguments/inputs.ts";
import { exitCodeOf, type InterruptName } from "../../interrupts.ts";
import { agentOf, agentOptions, promptOf } from "./agent-options.ts";
import { tellEvent } from "./tell-event.ts";

// Of a server that does not answer any more.
const killTimeoutMs = 10_000;

export const run = defineCommand({
  summary: "Have an agent do something in a sandbox",
  description: `What the agent says is standard output, what it does is told on standard error; with --json each of its events is
a line. A PROMPT of - is standard input. It needs ANTHROPIC_API_KEY, by --env or from the environment of the sandbox,
and takes ANTHROPIC_BASE_URL and ANTHROPIC_MODEL from there.

It ends when the prompt has been answered, with 0, or with 1 when that failed. Ctrl-C ends what it does; a second one
ends it at once.`,
  arguments: { id: one("SANDBOX"), prompt: some("PROMPT") },
  options: agentOptions,
  examples: [
    { line: 'agent run -e ANTHROPIC_API_KEY="$ANTHROPIC_API_KEY" sb-1a2b3c4d fix the tests', shows: "a task" },
    { line: "osb agent run --permission-mode plan sb-1a2b3c4d - < task.md", shows: "one that is written down" },
    {
      line: "agent run --resume 5f0d3e5d-0667-43b1-a989-ffccae31a58c sb-1a2b3c4d now the linter",
      shows: "go on with a conversation",
    },
  ],
  async run({ id, prompt, ...asked }, context) {
    const request = { ...agentOf(asked), prompt: await promptOf(prompt, "run", context) };
    const { agents } = await context.client();
    using held = holdInterrupts(context);
    let agent: AttachedAgent | undefined;
    try {
      // Waited for also after an interrupt: it would work on unheard.
      const started = await agents.start(id, request, held.ended);
      agent = await agents.attach(id, started.id, held.ended);
      held.pass(agent);
      const answered = await hearAnswer(agent, context);
      const exitCode = await agent.exitCode;
      agent = undefined;
      if (held.last !== undefined) return exitCodeOf(held.last);
      return answered && exitCode === 0 ? 0 : 1;
    } catch (error) {
      if (held.ended.aborted && held.last !== undefined && isSandboxError(error)) return exitCodeOf(held.last);
      throw error;
    } finally {
      if (agent !== undefined) await killed(agents, id, agent);
    }
  },
});

/** As well as it goes: what is told is why it was left. */
async function killed(agents: Client["agents"], id: string, agent: AttachedAgent): Promise<void> {
  await agents.kill(id, agent.id, undefined, AbortSignal.timeout(killTimeoutMs)).catch(() => undefined);
}

/** To its end. False: something failed. */
async function hearAnswer(agent: AttachedAgent, context: Context): Promise<boolean> {
  let answered = true;
  for await (const event of agent.events) {
    await tellEvent(event, context);
    if (event.type === "error" || event["is_error"] === true) answered = false;
    if (event.type !== "turn_complete") continue;
    if (!context.globals.json) context.note(`--resume ${String(event["claude_session_id"])} goes on with this`);
    await agent.end();
  }
  return answered;
}

interface HeldInterrupts extends Disposable {
  readonly last: InterruptName | undefined;
  /** Aborted by the second one. */
  readonly ended: AbortSignal;
  /** The first one is the agent's, also when it came before. */
  pass(agent: AttachedAgent): void;
}

function holdInterrupts({ host }: Context): HeldInterrupts {
  const ended = new AbortController();
  let agent: AttachedAgent | undefined;
  let last: InterruptName | undefined;
  // One that has just ended cannot be told any more; its end is on the way.
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
