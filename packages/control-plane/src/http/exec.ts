import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/execs.ts";
import type { RunningExec } from "@opensandbox/wire/worker/worker.ts";
import type { FastifyInstance, FastifyReply } from "fastify";
import { useSandbox } from "#sandboxes/use-sandbox.ts";
import type { ApiContext } from "./api-context.ts";
import { failureOf } from "./reply-error.ts";
import { answered, serve } from "./serve.ts";

// Proxies give up on a connection that stays silent; shorter commands do not need the trick.
const quickSeconds = 30;

export function serveExec(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes, execs, timing } = api;
  const { ending, worker } = sandboxes;

  serve(app, ending, wire.run, async ({ body, organizationId, parameter, signal, reply }) => {
    const id = parseSandboxId(parameter("id"));
    using _ = await useSandbox(sandboxes, organizationId, id, signal);
    const request = wire.execFrom(body);
    const exec = await worker.exec(id, request, signal);
    const long = request.timeoutMs === 0 || (request.timeoutMs ?? 0) > quickSeconds * 1000;
    if (long) return runLong(api, exec, reply);
    return wire.runReplyOf(await execs.collect(exec));
  });

  serve(app, ending, wire.runAsync, async ({ body, organizationId, parameter, signal, reply }) => {
    const id = parseSandboxId(parameter("id"));
    using _ = await useSandbox(sandboxes, organizationId, id, signal);
    // It goes on when its caller goes away.
    const handle = execs.start(await worker.exec(id, wire.execFrom(body), ending));
    await handle.settled(timing.inlineHoldMs, signal);
    const { state } = handle;
    if (state === undefined) {
      execs.keep(id, handle);
      reply.status(202);
      return { execId: handle.id, running: true as const, startedAt: handle.startedAt.toISOString() };
    }
    const output = handle.output();
    execs.release(handle);
    if (state.end === undefined) throw state.error ?? new Error("a command ended without an end");
    return wire.runReplyOf({ ...output, end: state.end });
  });

  serve(app, ending, wire.getExecResult, async ({ organizationId, parameter, signal }) => {
    const id = parseSandboxId(parameter("id"));
    await sandboxes.store.get(organizationId, id);
    using _ = sandboxes.activity.begin(id);
    const handle = execs.find(id, parameter("execId"));
    await handle.settled(timing.resultHoldMs, signal);
    const { state } = handle;
    if (state?.end !== undefined) return { running: false, ...wire.runReplyOf({ ...handle.output(), end: state.end }) };
    // Nobody reads the output of a command that still runs, and it may be large.
    if (state === undefined) return { running: true, stdout: "", stderr: "" };
    const { stdout, stderr, truncated } = handle.output();
    const error = state.error?.message ?? "the end of the command cannot be known";
    return { running: false, stdout, stderr, error, ...(truncated ? { truncated } : {}) };
  });
}

/** Begins the answer now and keeps it alive with spaces, which JSON allows in front. */
async function runLong(api: ApiContext, exec: RunningExec, reply: FastifyReply): Promise<typeof answered> {
  reply.hijack();
  reply.raw.writeHead(200, { "content-type": "application/json; charset=utf-8" });
  reply.raw.flushHeaders();
  const write = (text: string): boolean => !reply.raw.destroyed && reply.raw.write(text);
  const keepAlive = setInterval(() => write(" "), api.timing.keepAliveMs);
  try {
    const result = await api.execs.collect(exec);
    write(JSON.stringify(wire.runReplyOf(result)));
  } catch (error) {
    const { log, ending } = api.sandboxes;
    const { body } = failureOf(error, { requestId: reply.request.id, log, ending });
    write(JSON.stringify(body));
  } finally {
    clearInterval(keepAlive);
    reply.raw.end();
  }
  return answered;
}
