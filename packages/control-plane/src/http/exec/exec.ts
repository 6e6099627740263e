import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { describeError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId, type SandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/guests/execs.ts";
import type { Exec } from "@opensandbox/wire/worker/sessions.ts";
import type { FastifyInstance, FastifyReply } from "fastify";
import {
  hasEnded,
  newSessionId,
  resultOf,
  type RunResult,
  startCommand,
  type StartedCommand,
} from "#execs/run-command.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { ApiContext } from "../api-context.ts";
import { failureOf } from "../reply-error.ts";
import { runReplyOf, runReplyStream } from "./run-reply.ts";
import { answered, serve } from "../serve.ts";

// Proxies close silent connections; commands with a shorter timeout need no keep-alive.
const quickSeconds = 30;
/** The longest delay of the guest's timers, which amounts to no limit. */
const endlessMs = 2 ** 31 - 1;
/** Deadline for removing a session. */
const removeMs = 30_000;

export function serveExec(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes, timing } = api;
  const { worker } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.run, async ({ body, organizationId, parameter, signal, reply }) => {
    const id = parseSandboxId(parameter("id"));
    using _ = await useSandbox(sandboxes, organizationId, id, signal);
    await using run = runOf(sandboxes, id);
    const command = wire.execFrom(body);
    await run.start(command, signal);
    const isLong = command.timeoutMs === 0 || (command.timeoutMs ?? 0) > quickSeconds * 1000;
    if (isLong) return await answerLate(api, reply, () => run.result(signal));
    const result = await run.result(signal);
    return runReplyOf(result) ?? (await sendJson(reply, runReplyStream(result, {})));
  });

  serve(app, ending, wire.runAsync, async ({ body, organizationId, parameter, signal, reply }) => {
    const id = parseSandboxId(parameter("id"));
    using _ = await useSandbox(sandboxes, organizationId, id, signal);
    const execId = newSessionId(body);
    const enough = new AbortController();
    const until = AbortSignal.any([signal, enough.signal]);
    const started = await startCommand(worker.guest(id).sessions, { id: execId, command: wire.execFrom(body) }, until);
    const result = await within(timing.inlineHoldMs, started.quickResult, signal);
    enough.abort();
    const small = result === undefined ? undefined : runReplyOf(result);
    if (small !== undefined) return small;
    reply.status(202);
    return { execId, running: true as const, startedAt: new Date(started.startedMs).toISOString() };
  });

  serve(app, ending, wire.getExecResult, async ({ organizationId, parameter, signal, reply }) => {
    const id = parseSandboxId(parameter("id"));
    const execId = parameter("execId");
    const hold = AbortSignal.timeout(timing.resultHoldMs);
    const since = performance.now();
    try {
      using _ = await useSandbox(sandboxes, organizationId, id, AbortSignal.any([signal, hold]));
      const leftMs = Math.max(0, Math.round(timing.resultHoldMs - (performance.now() - since)));
      const session = await worker.guest(id).sessions.wait(execId, leftMs, signal);
      // The client ignores the output of a running command, and it may be large.
      if (!hasEnded(session)) return { running: true, stdout: "", stderr: "" };
      const result = await resultOf(worker.guest(id).sessions, session, signal);
      const small = runReplyOf(result);
      if (small !== undefined) return { running: false, ...small };
      return await sendJson(reply, runReplyStream(result, { running: false }));
    } catch (error) {
      // The published client treats every failure as final. The next server has the result that this one's end cuts off.
      const isTransient = ending.aborted || error === hold.reason || (isSandboxError(error) && error.retryable);
      if (isTransient) return { running: true, waking: true, stdout: "", stderr: "" };
      throw isNoSession(error) ? noResult(execId, error) : error;
    }
  });
}

/** One command that ends with its caller: disposing it removes its session. */
function runOf({ worker, log }: SandboxContext, sandboxId: SandboxId) {
  const id = newSessionId();
  let quickResult: StartedCommand["quickResult"] | undefined;
  let isLeft = true;
  return {
    async start(command: Exec, signal: AbortSignal): Promise<void> {
      ({ quickResult } = await startCommand(worker.guest(sandboxId).sessions, { id, command }, signal));
    },

    async result(signal: AbortSignal): Promise<RunResult> {
      const quick = await quickResult;
      if (quick !== undefined) {
        isLeft = false;
        return quick;
      }
      signal.throwIfAborted();
      try {
        const session = await worker.guest(sandboxId).sessions.wait(id, endlessMs, signal);
        if (hasEnded(session)) return await resultOf(worker.guest(sandboxId).sessions, session, signal);
      } catch (error) {
        throw isSandboxError(error, "not_found") ? unknownEnd(error) : error;
      }
      throw unknownEnd(undefined);
    },

    async [Symbol.asyncDispose](): Promise<void> {
      if (!isLeft) return;
      await worker
        .guest(sandboxId)
        .sessions.remove(id, AbortSignal.timeout(removeMs))
        .catch((error: unknown) => {
          // The command has ended with its machine or agent.
          if (isSandboxError(error, "not_found") || isSandboxError(error, "unavailable")) return;
          log("warn", "a command may run on without its caller", { sandbox: sandboxId, ...describeError(error) });
        });
    },
  };
}

/** The value of the promise, or undefined after the given time. */
async function within<T>(milliseconds: number, promise: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  const { promise: over, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => resolve(undefined), milliseconds);
  try {
    return await orAborted(Promise.race([promise, over]), signal);
  } finally {
    clearTimeout(timer);
  }
}

/** Settles when everything has been sent or the client has left. A failure before that cuts the connection. */
async function sendJson(reply: FastifyReply, stream: Readable): Promise<typeof answered> {
  const { promise, resolve } = Promise.withResolvers<void>();
  stream.once("close", resolve);
  reply.type("application/json; charset=utf-8").send(stream);
  await promise;
  return answered;
}

/** Starts the answer now and keeps it alive with spaces, which JSON allows before a value. */
async function answerLate(
  api: ApiContext,
  reply: FastifyReply,
  work: () => Promise<RunResult>,
): Promise<typeof answered> {
  reply.hijack();
  const { raw } = reply;
  // The head is sent with the first space, or together with the result of a quick command.
  raw.writeHead(200, { "content-type": "application/json; charset=utf-8" });
  const keepAlive = setInterval(() => raw.destroyed || raw.write(" "), api.timing.keepAliveMs);
  try {
    const result = await work();
    clearInterval(keepAlive);
    const small = runReplyOf(result);
    if (small === undefined) await pipeline(runReplyStream(result, {}), raw);
    else raw.end(JSON.stringify(small));
  } catch (error) {
    const { body } = failureOf(error, reply.request.id, api.sandboxes);
    // The status has been sent, so the error follows as the body.
    if (!raw.destroyed) raw.end(JSON.stringify(body));
  } finally {
    clearInterval(keepAlive);
  }
  return answered;
}

function isNoSession(error: unknown): boolean {
  return isSandboxError(error, "not_found") && error.details.resource === "exec session";
}

function noResult(id: string, cause: unknown): SandboxError {
  const message = "exec not found: a result is kept for ten minutes after the command's end";
  return new SandboxError("not_found", message, { resource: "exec", id }, { cause });
}

function unknownEnd(cause: unknown): SandboxError {
  const message = "the result of the command is unknown: the sandbox was hibernated, restarted or deleted meanwhile";
  return new SandboxError("unavailable", message, { cause });
}
