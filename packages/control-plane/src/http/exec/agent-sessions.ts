import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/guests/agent-sessions.ts";
import { noSuchSession } from "@opensandbox/wire/public/guests/exec-sessions.ts";
import type { ExecSession } from "@opensandbox/wire/worker/sessions.ts";
import type { FastifyInstance } from "fastify";
import { newSessionId } from "#execs/run-command.ts";
import { writeToSession } from "#execs/write-to-session.ts";
import type { ApiContext } from "../api-context.ts";
import { isListed, SIGKILL } from "./exec-sessions.ts";
import { serve } from "../serve.ts";
import { useCalledSandbox } from "../requests/use-called-sandbox.ts";

/** Agent sessions, which are exec sessions of the agent wrapper. */
export function serveAgentSessions(app: FastifyInstance, api: ApiContext): void {
  const { worker, clock } = api.sandboxes;
  const { ending } = api.sandboxes.shutdown;

  serve(app, ending, wire.startAgent, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    const request = wire.agentFrom(newSessionId(), call.body);
    const session = await worker
      .guest(id)
      .sessions.create(request, call.signal)
      .catch((error: unknown) => {
        throw isNoProgram(error) ? noProgram(error) : error;
      });
    const lines = wire.firstLines(call.body);
    try {
      if (lines !== undefined)
        await writeToSession(worker.guest(id).sessions, { sessionId: session.id, text: lines }, call.signal);
    } catch (error) {
      // No client knows this session. One that cannot be removed now ends with its machine.
      await worker
        .guest(id)
        .sessions.remove(session.id, AbortSignal.timeout(removeMs))
        .catch(() => undefined);
      throw error;
    }
    const { resume } = call.body;
    return { ...wire.agentReplyOf(id, session), ...(resume === undefined ? {} : { claudeSessionID: resume }) };
  });

  serve(app, ending, wire.listAgents, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    const sessions = await worker.guest(id).sessions.list(call.signal);
    return sessions
      .filter((session) => isAgent(session) && isListed(session, clock))
      .map((session) => wire.agentReplyOf(id, session));
  });

  serve(app, ending, wire.getAgent, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    return wire.agentReplyOf(id, await agent(id, call.parameter("sessionId"), call.signal));
  });

  serve(app, ending, wire.promptAgent, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    await sendCommand(id, call.parameter("sessionId"), { type: "prompt", text: call.body.text }, call.signal);
  });

  serve(app, ending, wire.interruptAgent, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    await sendCommand(id, call.parameter("sessionId"), { type: "interrupt" }, call.signal);
  });

  serve(app, ending, wire.killAgent, async (call) => {
    const { id, use } = await useCalledSandbox(api, call);
    using _ = use;
    const { id: sessionId } = await agent(id, call.parameter("sessionId"), call.signal);
    await worker.guest(id).sessions.signal(sessionId, call.body.signal ?? SIGKILL, call.signal);
  });

  /** An agent that runs or has ended. @throws not_found, also for other sessions */
  async function agent(id: SandboxId, sessionId: string, signal: AbortSignal): Promise<ExecSession> {
    const session = await worker.guest(id).sessions.wait(sessionId, 0, signal);
    if (!isAgent(session)) throw noSuchSession(sessionId);
    return session;
  }

  async function sendCommand(
    id: SandboxId,
    sessionId: string,
    command: wire.AgentCommand,
    signal: AbortSignal,
  ): Promise<void> {
    const { end } = await agent(id, sessionId, signal);
    if (end !== undefined) {
      throw new SandboxError("wrong_state", "the agent session has ended", {
        ...{ resource: "exec session", state: "ended", allowed: ["running"] },
      });
    }
    await writeToSession(worker.guest(id).sessions, { sessionId, text: wire.agentLine(command) }, signal);
  }
}

/** Deadline for removing a session. */
const removeMs = 30_000;

function isAgent({ purpose }: ExecSession): boolean {
  return purpose === "agent";
}

function isNoProgram(error: unknown): boolean {
  return isSandboxError(error, "not_found") && error.details?.resource === "file";
}

/** A sandbox keeps its agent disk, and old ones lack the program. */
function noProgram(cause: unknown): SandboxError {
  const message = "this sandbox is too old for agent sessions: create a new one";
  return new SandboxError("not_supported", message, { cause });
}
