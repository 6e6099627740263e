import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import * as wire from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import type { Progress } from "@opensandbox/wire/worker/worker.ts";
import type { FastifyInstance } from "fastify";
import { forkOf } from "#checkpoints/fork-checkpoint.ts";
import { createFromImage } from "#images/create-from-image.ts";
import type { BuildLog } from "#images/image.ts";
import { createSandbox, type CreatedSandbox } from "#sandboxes/create-sandbox.ts";
import { deleteSandbox } from "#sandboxes/delete-sandbox.ts";
import { getSandbox, listSandboxes } from "#sandboxes/get-sandbox.ts";
import { setIdleTimeout } from "#sandboxes/set-idle-timeout.ts";
import { findReadyTemplate } from "#templates/find-template.ts";
import type { ApiContext } from "../api-context.ts";
import { answerWithEvents, wantsEvents } from "#http/images/build-events.ts";
import { deleteStoreOf, secretStoresOf } from "#http/secrets/stores-of-sandboxes.ts";
import { callerOf, requireScope } from "#http/requests/authenticate.ts";
import { createGuarded, type GuardedSandbox } from "./create-guarded.ts";
import { idempotencyKeyOf } from "#http/requests/idempotency-key.ts";
import { serve, type Call } from "../serve.ts";
import { serverTiming } from "../server-timing.ts";

type CreateCall = Call<wire.CreateSandboxBody, unknown>;

export function serveSandboxes(app: FastifyInstance, api: ApiContext): void {
  const { sandboxes, place } = api;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.createSandbox, async (call) => {
    if (wantsEvents(call)) {
      return answerWithEvents(api, call, async (onLog) => {
        const { sandbox, previewAuthToken } = await create(api, call, onLog);
        return { ...wire.sandboxReplyOf(sandbox, place), ...previewAuthToken };
      });
    }
    const created = await create(api, call, () => {});
    call.reply.header("server-timing", serverTiming(created.spans));
    call.reply.status(created.repeated ? 200 : 201);
    return { ...wire.sandboxReplyOf(created.sandbox, place), ...created.previewAuthToken };
  });

  const listed = async (
    organizationId: string,
    states: ReturnType<typeof wire.statesFrom>,
    { after, limit = "100", ...query }: wire.PageQuery,
  ): Promise<wire.SandboxReply[]> => {
    const last = after === undefined ? undefined : parseSandboxId(after);
    const selection = wire.selectionFrom(query);
    const asked = { organizationId, states, limit: Number(limit), after: last, ...selection };
    return (await listSandboxes(sandboxes, asked)).map((sandbox) => wire.sandboxReplyOf(sandbox, place));
  };

  serve(app, ending, wire.listSandboxes, async ({ organizationId, query }) => {
    return await listed(organizationId, wire.statesFrom(query), query);
  });

  serve(app, ending, wire.listPastSandboxes, async ({ organizationId, query }) => {
    return await listed(organizationId, wire.pastStatesFrom(query), query);
  });

  serve(app, ending, wire.refreshSandboxToken, async ({ organizationId, parameter, request, body }) => {
    const id = parseSandboxId(parameter("id"));
    await sandboxes.stores.sandboxes.get(organizationId, id);
    const caller = callerOf(request);
    if (caller === undefined) throw new SandboxError("unauthenticated", "missing API key");
    const { expires_in: seconds = wire.defaultSandboxTokenSeconds } = body;
    const token = api.tokens.createForSandbox(caller, id, seconds);
    return { token, expires_in: seconds, sandboxID: id };
  });

  serve(app, ending, wire.getSandbox, async ({ organizationId, parameter }) => {
    const sandbox = await getSandbox(sandboxes, organizationId, parseSandboxId(parameter("id")));
    return wire.sandboxReplyOf(sandbox, place);
  });

  serve(app, ending, wire.deleteSandbox, async ({ organizationId, parameter, query, request }) => {
    const id = parseSandboxId(parameter("id"));
    const deletesStore = query.deleteSecretStore === "true";
    if (deletesStore) requireScope(request, "secrets:write");
    await deleteSandbox(sandboxes, organizationId, id);
    api.hostPorts.close(id);
    if (deletesStore) await deleteStoreOf(api, organizationId, id);
  });

  serve(app, ending, wire.setIdleTimeout, async ({ organizationId, parameter, body, signal }) => {
    const id = parseSandboxId(parameter("id"));
    await setIdleTimeout(sandboxes, { organizationId, id, idleTimeoutSeconds: body.timeout }, signal);
  });
}

function create(api: ApiContext, call: CreateCall, onLog: (log: BuildLog) => void): Promise<GuardedSandbox> {
  return createGuarded(api, call.body.previewAuth, (own) => createAs(api, call, own, onLog));
}

async function createAs(
  api: ApiContext,
  call: CreateCall,
  own: { readonly previewTokenHash: string | undefined },
  onLog: (log: BuildLog) => void,
): Promise<CreatedSandbox> {
  const { body, organizationId, request, signal } = call;
  const idempotencyKey = idempotencyKeyOf(request);
  const secretStores = await secretStoresOf(api, call, body.secretStore);
  const asked = wire.newSandboxFrom(body);
  if (asked.kind === "from image") {
    const { image, fork: wished } = asked;
    const fork = { ...wished, ...own, secretStores };
    return await createFromImage(api.images, { organizationId, image, fork, idempotencyKey }, onLog, signal);
  }
  let step = 0;
  const onProgress = (progress: Progress): void => {
    const percent = progress.percent === undefined ? "" : ` (${Math.round(progress.percent)} %)`;
    onLog({ step: step++, type: "progress", message: `${progress.step}${percent}` });
  };
  // A template of the organization takes precedence over an image of a registry with the same name.
  const { image, networkEnabled: _, ...wished } = asked.sandbox;
  const template = api.sandboxes.worker.description.images.includes(image)
    ? undefined
    : await findReadyTemplate(api.templates, organizationId, image);
  if (template !== undefined) {
    const network = body.networkEnabled === undefined ? {} : { networkEnabled: body.networkEnabled };
    const fork = { ...wished, ...network, ...own, secretStores };
    const fromTemplate = forkOf(template.checkpoint, { organizationId, fork, idempotencyKey });
    return await createSandbox(api.sandboxes, fromTemplate, onProgress, signal);
  }
  const sandbox = { ...asked.sandbox, ...own, secretStores };
  return await createSandbox(api.sandboxes, { organizationId, sandbox, idempotencyKey }, onProgress, signal);
}
