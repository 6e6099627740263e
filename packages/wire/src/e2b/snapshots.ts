import { z } from "zod";
import type { Route } from "../route.ts";
import type { StartedReply } from "./sandboxes.ts";

export interface SnapshotReply {
  readonly snapshotID: string;
  readonly names: readonly string[];
}

const key = { access: "key" } as const;

export const createSnapshot: Route<{ name?: string | undefined }, unknown, SnapshotReply> = {
  ...key,
  ...{ method: "POST", path: "/sandboxes/:id/snapshots", name: "e2bCreateSnapshot", summary: "Capture a sandbox" },
  body: z.object({ name: z.string().max(200, "name must be at most 200 characters").optional() }),
  status: 201,
  reply: z.custom<SnapshotReply>(),
};

export const SnapshotsQuery = z.object({
  sandboxID: z.string().optional(),
  name: z.string().optional(),
  limit: z.coerce.number("limit must be a number").int().min(1).max(100, "limit must be at most 100").optional(),
  nextToken: z.string().optional(),
});
export type SnapshotsQuery = z.infer<typeof SnapshotsQuery>;

export const listSnapshots: Route<unknown, SnapshotsQuery, SnapshotReply[]> = {
  ...key,
  ...{ method: "GET", path: "/snapshots", name: "e2bListSnapshots", summary: "List snapshots" },
  query: SnapshotsQuery,
  status: 200,
  reply: z.custom<SnapshotReply[]>(),
};

export const deleteTemplate: Route = {
  ...key,
  ...{
    method: "DELETE",
    path: "/templates/:id",
    name: "e2bDeleteTemplate",
    summary: "Remove a template or a snapshot",
  },
  status: 204,
};

export interface ForkBody {
  readonly timeout?: number | undefined;
  readonly count?: number | undefined;
}

export type ForkReply = (
  | { readonly sandbox: StartedReply }
  | { readonly error: { readonly code: number; readonly message: string } }
)[];

const countRule = "count must be a whole number from 1 to 100";

export const fork: Route<ForkBody, unknown, ForkReply> = {
  ...key,
  ...{ method: "POST", path: "/sandboxes/:id/fork", name: "e2bFork", summary: "Copy a running sandbox" },
  body: z.object({
    timeout: z.number().int().min(1, "timeout must be at least 1").optional(),
    count: z.number(countRule).int(countRule).min(1, countRule).max(100, countRule).optional(),
  }),
  status: 201,
  reply: z.custom<ForkReply>(),
};

/** The id of a snapshot as clients know it: a template and a tag. */
export function snapshotReplyOf({ id, name }: { readonly id: string; readonly name: string }): SnapshotReply {
  return { snapshotID: `${id}:default`, names: name === "" ? [] : [name] };
}

/** A template's name without its team and without the tag that every template has. */
export function templateNameFrom(text: string): string {
  return text.replace(/^[^/]+\//, "").replace(/:default$/, "");
}
