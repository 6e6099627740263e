import { SandboxError, isSandboxError } from "@opensandbox/wire/errors.ts";
import * as wire from "@opensandbox/wire/e2b/sandboxes.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { answered, serve, type Call } from "#http/serve.ts";
import { useSandbox } from "#lifecycle/use-sandbox.ts";
import type { Lifetime } from "#lifetimes/lifetime.ts";
import { newPreviewToken } from "#previews/preview-token.ts";
import { deleteSandbox } from "#sandboxes/delete-sandbox.ts";
import { getSandbox } from "#sandboxes/get-sandbox.ts";
import { hibernateSandbox } from "#sandboxes/hibernate-sandbox.ts";
import { setNetworkPolicy } from "#sandboxes/network-policy.ts";
import { setIdleTimeout } from "#sandboxes/set-idle-timeout.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { wakeSandbox } from "#sandboxes/wake-sandbox.ts";
import { accessOf, type E2bContext, sandboxIdFrom, shownSandbox } from "../e2b-context.ts";
import { prepareGuest } from "../guest-user.ts";
import { serveList } from "./list-sandboxes.ts";
import { startFromTemplate } from "./start-from-template.ts";

/** Serves the calls that create, show, pause, resume and end sandboxes. */
export function serveSandboxes(app: FastifyInstance, context: E2bContext): void {
  const { sandboxes } = context;
  const { ending } = sandboxes.shutdown;

  for (const [route, seconds] of [
    [wire.createSecond, wire.defaultLifeSeconds.second],
    [wire.createFirst, wire.defaultLifeSeconds.first],
  ] as const) {
    serve(app, ending, route, async (call) => await create(context, call, seconds));
  }
  serveList(app, context);

  serve(app, ending, wire.get, async ({ organizationId, parameter, request }) => {
    const id = sandboxIdFrom(parameter("id"));
    const { facts } = await shownSandbox(context, organizationId, id);
    if (facts.endsAt !== undefined) return wire.detailReplyOf(facts, accessOf(context, id, request));
    const { expiresAt: endsAt } = await getSandbox(sandboxes, organizationId, id);
    return wire.detailReplyOf({ ...facts, endsAt }, accessOf(context, id, request));
  });

  serve(app, ending, wire.kill, async ({ organizationId, parameter }) => {
    const { sandbox } = await shownSandbox(context, organizationId, sandboxIdFrom(parameter("id")));
    await deleteSandbox(sandboxes, organizationId, sandbox.id);
    context.hostPorts.close(sandbox.id);
    await context.lifetimes.remove(sandbox.id);
  });

  serve(app, ending, wire.setEnd, async ({ organizationId, parameter, body, signal }) => {
    const { sandbox, lifetime } = await shownSandbox(context, organizationId, sandboxIdFrom(parameter("id")));
    await setEnd(context, { sandbox, lifetime, endsAt: endAfter(context, body.timeout) }, signal);
  });

  serve(app, ending, wire.refresh, async ({ organizationId, parameter, body, signal }) => {
    const { sandbox, lifetime } = await shownSandbox(context, organizationId, sandboxIdFrom(parameter("id")));
    await extend(context, { sandbox, lifetime, seconds: body.duration ?? wire.defaultLifeSeconds.first }, signal);
  });

  serve(app, ending, wire.pause, async ({ organizationId, parameter, body }) => {
    if (body.memory === false) {
      throw new SandboxError("not_supported", "pausing without memory (memory: false) is not implemented");
    }
    await pause(context, { organizationId, id: sandboxIdFrom(parameter("id")) });
  });

  for (const route of [wire.connectSecond, wire.connectFirst]) {
    serve(app, ending, route, async (call) => await connect(context, call));
  }
  serve(app, ending, wire.resume, async (call) => {
    const { facts } = await shownSandbox(context, call.organizationId, sandboxIdFrom(call.parameter("id")));
    if (facts.paused) return await connect(context, call);
    call.reply.status(409).send({ code: 409, message: `sandbox ${facts.id} is not paused` });
    return answered;
  });

  serve(app, ending, wire.setNetwork, async ({ organizationId, parameter, body }) => {
    const policy = wire.networkPolicyOf(body, body.allow_internet_access);
    const { sandbox } = await shownSandbox(context, organizationId, sandboxIdFrom(parameter("id")));
    await setNetworkPolicy(sandboxes, { organizationId, id: sandbox.id, change: () => policy });
  });
}

async function create(
  context: E2bContext,
  { body, organizationId, request, signal }: Call<wire.NewSandbox, unknown>,
  defaultSeconds: number,
): Promise<wire.StartedReply> {
  wire.refuseUnimplemented(body);
  const { enabled, egress } = wire.networkPolicyOf(body.network ?? {}, body.allow_internet_access);
  const seconds = body.timeout ?? defaultSeconds;
  const traffic = body.network?.allowPublicTraffic === false ? newPreviewToken() : undefined;
  const sandbox = await startFromTemplate(
    context,
    {
      organizationId,
      template: body.templateID ?? "base",
      fork: {
        networkEnabled: enabled,
        egress,
        envs: body.envVars ?? {},
        metadata: body.metadata ?? {},
        alias: "",
        // If the server crashes before the lifetime is stored, the idle timeout applies.
        idleTimeoutSeconds: seconds,
        previewTokenHash: traffic?.hash,
      },
    },
    signal,
  );
  const lifetime: Lifetime = {
    sandboxId: sandbox.id,
    template: body.templateID ?? "base",
    endsAt: endAfter(context, seconds),
    atEnd: body.autoPause === true ? "hibernate" : "delete",
    wakesOnUse: body.autoResume?.enabled ?? false,
    paused: false,
  };
  return await finishStart(context, { sandbox, lifetime, request, trafficToken: traffic?.token }, signal);
}

export interface FinishStart {
  readonly sandbox: Sandbox;
  readonly lifetime: Lifetime;
  /** The request that started the sandbox. */
  readonly request: Pick<FastifyRequest, "headers">;
  readonly trafficToken?: string | undefined;
}

/** Gives a started sandbox its lifetime and its user. */
export async function finishStart(
  context: E2bContext,
  { sandbox, lifetime, request, trafficToken }: FinishStart,
  signal: AbortSignal,
): Promise<wire.StartedReply> {
  const { organizationId, id } = sandbox;
  await context.lifetimes.put(lifetime);
  await setIdleTimeout(context.sandboxes, { organizationId, id, idleTimeoutSeconds: 0 }, signal);
  await prepareGuest(context, sandbox, signal);
  return wire.startedReplyOf({ id, template: lifetime.template }, { ...accessOf(context, id, request), trafficToken });
}

interface NewEnd {
  readonly sandbox: Sandbox;
  readonly lifetime: Lifetime | undefined;
  readonly endsAt: Date;
}

/**
 * Sets the end of a sandbox. A sandbox that another interface created is hibernated at that time, as at its idle
 * timeout.
 */
async function setEnd(
  { sandboxes, lifetimes }: E2bContext,
  { sandbox, lifetime, endsAt }: NewEnd,
  signal: AbortSignal,
): Promise<void> {
  const { organizationId, id } = sandbox;
  if (lifetime !== undefined) return await lifetimes.put({ ...lifetime, endsAt });
  const template = sandbox.image === "default" ? "base" : sandbox.image;
  const paused = sandbox.state === "hibernated";
  await lifetimes.put({ sandboxId: id, template, endsAt, atEnd: "hibernate", wakesOnUse: true, paused });
  await setIdleTimeout(sandboxes, { organizationId, id, idleTimeoutSeconds: 0 }, signal);
}

/** Moves the end of a sandbox later, never earlier. A sandbox without a set end keeps its idle timeout. */
async function extend(
  context: E2bContext,
  { sandbox, lifetime, seconds }: Omit<NewEnd, "endsAt"> & { readonly seconds: number },
  signal: AbortSignal,
): Promise<void> {
  const endsAt = endAfter(context, seconds);
  if (lifetime === undefined || endsAt <= lifetime.endsAt) return;
  await setEnd(context, { sandbox, lifetime, endsAt }, signal);
}

async function pause(
  context: E2bContext,
  { organizationId, id }: { readonly organizationId: string; readonly id: SandboxId },
): Promise<void> {
  const { sandbox, lifetime, facts } = await shownSandbox(context, organizationId, id);
  if (facts.paused) {
    throw new SandboxError("wrong_state", `sandbox ${id} is already paused`, {
      resource: "sandbox",
      state: sandbox.state,
      allowed: ["running"],
    });
  }
  // A server that shut down may have hibernated it already.
  if (sandbox.state !== "hibernated") {
    try {
      await hibernateSandbox(context.sandboxes, organizationId, id);
    } catch (error) {
      if (!isSandboxError(error, "wrong_state") || error.details.state !== "hibernated") throw error;
    }
  }
  if (lifetime !== undefined) await context.lifetimes.put({ ...lifetime, paused: true });
}

async function connect(
  context: E2bContext,
  { organizationId, parameter, body, request, reply, signal }: Call<wire.ConnectBody, unknown>,
): Promise<wire.StartedReply> {
  if (body.memory === false) {
    throw new SandboxError("not_supported", "resuming without memory (memory: false) is not implemented");
  }
  const { sandboxes, lifetimes } = context;
  const id = sandboxIdFrom(parameter("id"));
  const { sandbox, lifetime, facts } = await shownSandbox(context, organizationId, id);
  const seconds = body.timeout ?? wire.defaultLifeSeconds.second;
  reply.status(facts.paused ? 201 : 200);
  if (facts.paused) {
    if (lifetime !== undefined) {
      // The end is set before the wake: a sandbox whose end has passed would be paused again.
      await lifetimes.put({ ...lifetime, paused: false, endsAt: endAfter(context, seconds) });
    }
    try {
      await wakeSandbox(sandboxes, { organizationId, id });
    } catch (error) {
      // A call on another connection may have woken it.
      const now = await sandboxes.stores.sandboxes.get(organizationId, id);
      if (now.state !== "running") {
        if (lifetime !== undefined) await lifetimes.put(lifetime);
        throw error;
      }
    }
  } else {
    await extend(context, { sandbox, lifetime, seconds }, signal);
    using _ = await useSandbox(sandboxes, organizationId, id, signal);
  }
  await prepareGuest(context, sandbox, signal);
  return wire.startedReplyOf(facts, accessOf(context, id, request));
}

function endAfter({ sandboxes: { clock } }: E2bContext, seconds: number): Date {
  return new Date(clock.now() + seconds * 1000);
}
