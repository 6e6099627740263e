import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { e2bErrorOf } from "@opensandbox/wire/e2b/errors.ts";
import { defaultLifeSeconds } from "@opensandbox/wire/e2b/sandboxes.ts";
import * as wire from "@opensandbox/wire/e2b/snapshots.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { FastifyInstance } from "fastify";
import type { Checkpoint } from "#checkpoints/checkpoint.ts";
import { createCheckpoint } from "#checkpoints/create-checkpoint.ts";
import { deleteCheckpoint } from "#checkpoints/delete-checkpoint.ts";
import { forkCheckpoint } from "#checkpoints/fork-checkpoint.ts";
import { serve } from "#http/serve.ts";
import type { Lifetime } from "#lifetimes/lifetime.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { deleteTemplate } from "#templates/manage-templates.ts";
import { type E2bContext, sandboxIdFrom, shownSandbox } from "../e2b-context.ts";
import { pageOf } from "./page.ts";
import { type FinishStart, finishStart } from "./sandboxes.ts";
import { findSnapshot } from "./start-from-template.ts";

const maxListed = 1000;
const maxPage = 100;

/** Copies started at the same time. Each takes a sandbox's memory and a turn in the worker's start queue. */
const maxAtOnce = 4;

/** Names that this server generates. Replies leave them out. */
const ownName = /^(?:snapshot|fork)-[0-9a-f]{16}$/;

/** Serves E2B's snapshots, which are checkpoints here, and copies of running sandboxes. */
export function serveSnapshots(app: FastifyInstance, context: E2bContext): void {
  const { sandboxes } = context;
  const { stores } = sandboxes;
  const { ending } = sandboxes.shutdown;

  serve(app, ending, wire.createSnapshot, async ({ organizationId, parameter, body, signal }) => {
    const { sandbox } = await shownSandbox(context, organizationId, sandboxIdFrom(parameter("id")));
    const name = wire.templateNameFrom(body.name ?? "") || `snapshot-${randomHex(8)}`;
    return replyOf(await capture(context, { sandbox, name }, signal));
  });

  serve(app, ending, wire.listSnapshots, async ({ organizationId, query, reply }) => {
    const id = query.sandboxID === undefined ? undefined : sandboxIdFrom(query.sandboxID);
    const name = query.name === undefined ? undefined : wire.templateNameFrom(query.name);
    const found = (await stores.checkpoints.list(organizationId, maxListed))
      .filter(({ status }) => status === "ready")
      .filter((snapshot) => id === undefined || snapshot.sandboxId === id)
      .filter((snapshot) => name === undefined || snapshot.name === name || snapshot.id === name);
    const { items, nextToken } = pageOf(found, {
      limit: query.limit ?? maxPage,
      token: query.nextToken,
      keyOf: ({ createdAt, id }) => `${createdAt.getTime()}:${id}`,
      isAfter: ({ createdAt, id }, key) => {
        const [time = "", last = ""] = key.split(":");
        return createdAt.getTime() < Number(time) || (createdAt.getTime() === Number(time) && id > last);
      },
    });
    if (nextToken !== undefined) reply.header("x-next-token", nextToken);
    return items.map(replyOf);
  });

  serve(app, ending, wire.deleteTemplate, async ({ organizationId, parameter }) => {
    const name = wire.templateNameFrom(parameter("id"));
    const template = await context.templates.templates.find(organizationId, name);
    if (template?.organizationId === organizationId) return await deleteTemplate(context.templates, template);
    const snapshot = await findSnapshot(context, organizationId, name);
    if (snapshot?.organizationId !== organizationId) {
      throw new SandboxError("not_found", `template '${name}' not found`, { resource: "checkpoint", id: name });
    }
    await deleteCheckpoint(sandboxes, { organizationId, id: snapshot.sandboxId, checkpointId: snapshot.id });
  });

  serve(app, ending, wire.fork, async ({ organizationId, parameter, body, request, signal }) => {
    const { sandbox, lifetime, facts } = await shownSandbox(context, organizationId, sandboxIdFrom(parameter("id")));
    if (facts.paused) {
      const details = { resource: "sandbox", state: sandbox.state, allowed: ["running"] } as const;
      throw new SandboxError("wrong_state", `sandbox ${sandbox.id} is paused: resume it first`, details);
    }
    const seconds = body.timeout ?? defaultLifeSeconds.second;
    const snapshot = await capture(context, { sandbox, name: `fork-${randomHex(8)}` }, signal);
    try {
      const copies: wire.ForkReply = [];
      for (let left = body.count ?? 1; left > 0; left -= maxAtOnce) {
        const batch = Array.from({ length: Math.min(left, maxAtOnce) }, () =>
          copyOf(context, { snapshot, lifetime, request, template: facts.template, seconds }, signal),
        );
        copies.push(...(await Promise.all(batch)));
      }
      return copies;
    } finally {
      await deleteCheckpoint(sandboxes, { organizationId, id: sandbox.id, checkpointId: snapshot.id });
    }
  });
}

function replyOf({ id, name }: Checkpoint): wire.SnapshotReply {
  return wire.snapshotReplyOf({ id, name: ownName.test(name) ? "" : name });
}

/** Captures a running sandbox. Returns when the snapshot is ready. */
async function capture(
  { sandboxes }: E2bContext,
  { sandbox, name }: { readonly sandbox: Sandbox; readonly name: string },
  signal: AbortSignal,
): Promise<Checkpoint> {
  const { organizationId, id } = sandbox;
  const wanted = { name, kind: "full", promoteToFull: false } as const;
  const begun = await createCheckpoint(sandboxes, { organizationId, id, wanted });
  // The row says how the capture ended.
  await sandboxes.operations.captures.join(begun.id, signal)?.catch(() => signal.throwIfAborted());
  const snapshot = await sandboxes.stores.checkpoints.get(organizationId, begun.id);
  if (snapshot.status === "ready") return snapshot;
  throw new SandboxError("unavailable", `sandbox ${id} could not be captured: ${snapshot.error ?? snapshot.status}`);
}

interface Copy {
  readonly snapshot: Checkpoint;
  readonly lifetime: Lifetime | undefined;
  readonly request: FinishStart["request"];
  readonly template: string;
  readonly seconds: number;
}

/** Starts one copy. Its failure is part of the answer, since other copies may have succeeded. */
async function copyOf(
  context: E2bContext,
  { snapshot, lifetime, request, template, seconds }: Copy,
  signal: AbortSignal,
): Promise<wire.ForkReply[number]> {
  const { organizationId, id: checkpointId } = snapshot;
  try {
    const fork = { envs: {}, metadata: {}, alias: "", idleTimeoutSeconds: seconds };
    const { sandbox } = await forkCheckpoint(context.sandboxes, { organizationId, checkpointId, fork }, signal);
    const own: Lifetime = {
      sandboxId: sandbox.id,
      template,
      endsAt: new Date(context.sandboxes.clock.now() + seconds * 1000),
      atEnd: lifetime?.atEnd ?? "delete",
      wakesOnUse: lifetime?.wakesOnUse ?? false,
      paused: false,
    };
    return { sandbox: await finishStart(context, { sandbox, lifetime: own, request }, signal) };
  } catch (error) {
    return { error: e2bErrorOf(asSandboxError(error)).body };
  }
}
