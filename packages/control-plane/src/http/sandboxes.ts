import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/sandboxes.ts";
import type { FastifyInstance } from "fastify";
import { createSandbox, type CreatedSandbox } from "#sandboxes/create-sandbox.ts";
import { deleteSandbox } from "#sandboxes/delete-sandbox.ts";
import { getSandbox, listSandboxes } from "#sandboxes/get-sandbox.ts";
import { setIdleTimeout } from "#sandboxes/set-idle-timeout.ts";
import type { ApiContext } from "./api-context.ts";
import { EventStream } from "./event-stream.ts";
import { idempotencyKeyOf } from "./idempotency-key.ts";
import { failureOf } from "./reply-error.ts";
import { answered, serve, type Call } from "./serve.ts";
import { serverTiming } from "./server-timing.ts";

type CreateCall = Call<wire.CreateSandboxBody, unknown>;

export function serveSandboxes(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes, place } = api;
  const { ending } = sandboxes;

  serve(app, ending, wire.createSandbox, async (call) => {
    if (call.request.headers.accept?.includes("text/event-stream")) return createWithEvents(api, call);
    const created = await create(api, call, () => {});
    call.reply.header("server-timing", serverTiming(created.spans));
    call.reply.status(created.repeated ? 200 : 201);
    return wire.sandboxReplyOf(created.sandbox, place);
  });

  serve(app, ending, wire.listSandboxes, async ({ organizationId, query }) => {
    const found = await listSandboxes(sandboxes, organizationId, wire.statesFrom(query));
    return found.map((sandbox) => wire.sandboxReplyOf(sandbox, place));
  });

  serve(app, ending, wire.getSandbox, async ({ organizationId, parameter }) => {
    const sandbox = await getSandbox(sandboxes, organizationId, parseSandboxId(parameter("id")));
    return wire.sandboxReplyOf(sandbox, place);
  });

  serve(app, ending, wire.deleteSandbox, async ({ organizationId, parameter }) => {
    await deleteSandbox(sandboxes, organizationId, parseSandboxId(parameter("id")));
  });

  serve(app, ending, wire.setIdleTimeout, async ({ organizationId, parameter, body, signal }) => {
    const id = parseSandboxId(parameter("id"));
    await setIdleTimeout(sandboxes, { organizationId, id, idleTimeoutSeconds: body.timeout }, signal);
  });
}

function create(
  { sandboxes }: ApiContext,
  { body, organizationId, request, signal }: CreateCall,
  onProgress: Parameters<typeof createSandbox>[2],
): Promise<CreatedSandbox> {
  const idempotencyKey = idempotencyKeyOf(request);
  const sandbox = wire.newSandboxFrom(body);
  return createSandbox(sandboxes, { organizationId, sandbox, idempotencyKey }, onProgress, signal);
}

async function createWithEvents(api: ApiContext, call: CreateCall): Promise<typeof answered> {
  using events = new EventStream(call.reply, api.timing.keepAliveMs);
  try {
    let step = 0;
    const { sandbox } = await create(api, call, (progress) => {
      const percent = progress.percent === undefined ? "" : ` (${Math.round(progress.percent)} %)`;
      events.send("build_log", { step: step++, type: "progress", message: `${progress.step}${percent}` });
    });
    events.send("result", wire.sandboxReplyOf(sandbox, api.place));
  } catch (error) {
    if (!events.begun) throw error;
    const { log, ending } = api.sandboxes;
    const { body } = failureOf(error, { requestId: call.request.id, log, ending });
    events.send("error", body);
  }
  events.end();
  return answered;
}
