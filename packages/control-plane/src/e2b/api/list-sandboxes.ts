import { SandboxError } from "@opensandbox/wire/errors.ts";
import * as wire from "@opensandbox/wire/e2b/sandboxes.ts";
import { templateNameFrom } from "@opensandbox/wire/e2b/snapshots.ts";
import type { FastifyInstance } from "fastify";
import { serve, type Call } from "#http/serve.ts";
import { moves, type SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import { type E2bContext, factsOf } from "../e2b-context.ts";
import { pageOf } from "./page.ts";

const maxPage = 100;
const shownStates = (Object.keys(moves) as SandboxState[]).filter((state) => state !== "stopped");

/** Serves the lists of sandboxes, page by page. */
export function serveList(app: FastifyInstance, context: E2bContext): void {
  const { ending } = context.sandboxes.shutdown;
  serve(app, ending, wire.list, async (call) => await list(context, call));
  // The list of version 1 has neither pages nor paused sandboxes.
  serve(app, ending, wire.listFirst, async ({ organizationId, query }) => {
    return (await selected(context, organizationId, { ...query, state: query.state ?? "running" })).map(
      wire.listedReplyOf,
    );
  });
}

async function list(
  context: E2bContext,
  { organizationId, query, reply }: Call<unknown, wire.ListQuery>,
): Promise<wire.ListedReply[]> {
  const found = await selected(context, organizationId, query);
  const ascending = query.order === "asc";
  const keyOf = ({ createdAt, id }: wire.SandboxFacts): string => `${createdAt.getTime()}:${id}`;
  const { items, nextToken } = pageOf(found, {
    limit: query.limit ?? maxPage,
    token: query.nextToken,
    keyOf,
    isAfter: (facts, key) => {
      const [time = "", id = ""] = key.split(":");
      const difference = facts.createdAt.getTime() - Number(time);
      if (difference !== 0) return ascending ? difference > 0 : difference < 0;
      return ascending ? facts.id < id : facts.id > id;
    },
  });
  if (nextToken !== undefined) reply.header("x-next-token", nextToken);
  reply.header("x-total-running", found.filter(({ paused }) => !paused).length);
  return items.map(wire.listedReplyOf);
}

/** The sandboxes that match a request's filters, in the order that it asks for. */
async function selected(
  { sandboxes, lifetimes }: E2bContext,
  organizationId: string,
  { metadata, state, startedAfter, template, order }: wire.ListQuery,
): Promise<wire.SandboxFacts[]> {
  const states = wire.statesFrom(state);
  const wanted = wire.metadataFrom(metadata ?? "");
  const after = timeFrom(startedAfter);
  const name = template === undefined ? undefined : templateNameFrom(template);
  const ends = await lifetimes.listOf(organizationId);
  const rows = await sandboxes.stores.sandboxes.list(organizationId, shownStates, Number.MAX_SAFE_INTEGER);
  const found = rows
    .flatMap((sandbox) => {
      const expiresAt = sandboxes.activity.deadline(sandbox.id) ?? sandbox.expiresAt;
      return factsOf({ ...sandbox, expiresAt }, ends.get(sandbox.id)) ?? [];
    })
    .filter((facts) => states.has(facts.paused ? "paused" : "running"))
    .filter((facts) => [...wanted].every(([key, value]) => facts.metadata[key] === value))
    .filter((facts) => facts.createdAt.getTime() >= after)
    .filter((facts) => name === undefined || templateNameFrom(facts.template) === name);
  return order === "asc" ? found.toReversed() : found;
}

function timeFrom(text: string | undefined): number {
  if (text === undefined) return Number.NEGATIVE_INFINITY;
  const time = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text);
  if (!Number.isNaN(time)) return time;
  throw new SandboxError("invalid_argument", "startedAfter must be an ISO 8601 time, or seconds since 1970");
}
