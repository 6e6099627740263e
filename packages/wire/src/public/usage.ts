import { z } from "zod";
import { SandboxError } from "../errors.ts";
import type { Route } from "../route.ts";

/** The size of a workspace up to which its disk is not counted, in MiB. It is the default size. */
export const includedDiskMib = 20_480;

const dayMs = 24 * 3_600_000;
/** The longest windows, in days, of a report of an organization and of one sandbox. */
const maxDays = { organization: 90, sandbox: 30 } as const;
/** The default windows, in milliseconds. */
const defaultMs = { organization: 30 * dayMs, sandbox: 3_600_000 } as const;

/** A span of time, milliseconds since 1970; the end is not part of it. */
export interface Window {
  readonly from: number;
  readonly to: number;
}

const from = z
  .string()
  .optional()
  .meta({ description: "RFC 3339. Default: 30 days before `to`, or 1 hour for one sandbox." });
const to = z.string().optional().meta({ description: "RFC 3339, not part of the window. Default: now." });

const cursorRule = "cursor must be the nextCursor of an earlier reply";

const sorts = ["-memoryGbSeconds", "-diskOverageGbSeconds"] as const;

const UsageQuery = z
  .looseObject({
    groupBy: z
      .string()
      .regex(/^(sandbox|tag:.+)$/, "groupBy must be sandbox or tag:KEY")
      .optional()
      .meta({ description: "`sandbox`, or `tag:KEY` for the values of a tag. Default: sandbox." }),
    from,
    to,
    sort: z.enum(sorts, `sort must be ${sorts.join(" or ")}`).optional(),
    limit: z
      .string()
      .regex(/^([1-9]\d{0,2}|1000)$/, "limit must be a number from 1 to 1000")
      .optional()
      .meta({ description: "Items in a page. Default: 100." }),
    cursor: z
      .string()
      .regex(/^\d{1,9}$/, cursorRule)
      .optional(),
  })
  // Not an object schema: `parse` would drop the filters, whose names are not known here.
  .transform((query): UsageQuery => query);
interface UsageQuery {
  readonly groupBy?: string | undefined;
  readonly from?: string | undefined;
  readonly to?: string | undefined;
  readonly sort?: (typeof sorts)[number] | undefined;
  readonly limit?: string | undefined;
  readonly cursor?: string | undefined;
  readonly [filter: string]: unknown;
}

const totals = {
  memoryGbSeconds: z.number().meta({ description: "Memory of running machines. 1 GB: 1024 MiB." }),
  diskOverageGbSeconds: z.number().meta({
    description: `Disk beyond ${includedDiskMib / 1024} GB of each sandbox, until it is stopped.`,
  }),
};

/** Optional: earlier servers do not measure it. */
const measured = {
  cpuSeconds: z.number().optional().meta({ description: "Processor time of the machines, measured on their hosts." }),
  egressBytes: z.number().optional().meta({
    description: "Bytes that have left the sandboxes' networks. 0 where a host does not count them.",
  }),
};

const Totals = z.object({ ...totals, vcpuSeconds: z.number(), ...measured }).meta({ id: "UsageTotals" });

const SandboxItem = z
  .object({
    sandboxId: z.string(),
    alias: z.string().optional(),
    status: z
      .string()
      .optional()
      .meta({ description: "Absent, like the tags, when the sandbox's row has been removed." }),
    tags: z.record(z.string(), z.string()),
    tagsLastUpdatedAt: z.iso.datetime().nullable(),
    ...totals,
    vcpuSeconds: z.number(),
    ...measured,
  })
  .meta({ id: "UsageOfSandbox" });

const TagItem = z
  .object({
    tagKey: z.string(),
    tagValue: z.string(),
    ...totals,
    vcpuSeconds: z.number(),
    ...measured,
    sandboxCount: z.int(),
  })
  .meta({ id: "UsageOfTag" });

const UsageReply = z
  .object({
    from: z.iso.datetime(),
    to: z.iso.datetime(),
    groupBy: z.string(),
    total: Totals.meta({ description: "The total of all items that the filter selects, the same on every page." }),
    untagged: z
      .object({ ...totals, vcpuSeconds: z.number(), ...measured, sandboxCount: z.int() })
      .optional()
      .meta({ description: "Sandboxes without the tag, when the items are values of a tag." }),
    items: z.array(z.union([SandboxItem, TagItem])),
    nextCursor: z.string().nullable(),
  })
  .meta({ id: "Usage" });
export type UsageReply = z.infer<typeof UsageReply>;

export const getUsage: Route<unknown, UsageQuery, UsageReply> = {
  method: "GET",
  path: "/api/usage",
  name: "getUsage",
  summary: "Report the memory, disk, processor time and egress of sandboxes over time, by sandbox or by tag",
  description:
    "Allocated sizes are counted from the events of sandboxes. Processor time and egress are measured every minute and " +
    "stored by the hour; a part of an hour has its share of it. " +
    `A window of at most ${maxDays.organization} days. ` +
    "`filter[tag:KEY]=A,B` selects sandboxes whose tag has one of the values; an empty value selects those without the " +
    "tag; several filters all apply. Tags are those that the sandboxes have now.",
  access: "key",
  query: UsageQuery,
  status: 200,
  reply: UsageReply,
};

const WindowQuery = z.object({ from, to });
type WindowQuery = z.infer<typeof WindowQuery>;

const Point = z
  .object({
    ts: z.iso.datetime(),
    memoryAllocatedGbSeconds: z.number(),
    memoryUsedGbSeconds: z.number().meta({ description: "0: the server does not measure it." }),
    uptimeSeconds: z.number(),
    allocatedMemoryMb: z.number().meta({ description: "The largest size within the point." }),
    usedMemoryMbAvg: z.number(),
    usedMemoryMbPeak: z.number(),
    ...measured,
    diskOverageGbSeconds: z.number().optional(),
  })
  .meta({ id: "UsagePoint" });

const SandboxUsageReply = z
  .object({
    sandboxId: z.string(),
    alias: z.string().optional(),
    from: z.iso.datetime(),
    to: z.iso.datetime(),
    totals: z.object({
      memoryAllocatedGbSeconds: z.number(),
      memoryUsedGbSeconds: z.number().meta({ description: "0: the server does not measure it." }),
      uptimeSeconds: z.number(),
      memoryAllocatedPeakMb: z.number(),
      memoryUsedPeakMb: z.number(),
      ...measured,
      diskOverageGbSeconds: z.number().optional(),
    }),
    points: z.array(Point),
  })
  .meta({ id: "SandboxUsage" });
export type SandboxUsageReply = z.infer<typeof SandboxUsageReply>;

export const getSandboxUsage: Route<unknown, WindowQuery, SandboxUsageReply> = {
  method: "GET",
  path: "/api/sandboxes/:id/usage",
  name: "getSandboxUsage",
  summary: "Report the memory, disk, processor time and egress of a sandbox over time",
  description:
    `A window of at most ${maxDays.sandbox} days. Points are minutes in a window of up to a day, and hours in a longer ` +
    "one. Their sums are the totals. Processor time and egress are stored by the hour; a minute has its share of it.",
  access: "key",
  query: WindowQuery,
  status: 200,
  reply: SandboxUsageReply,
};

/** The window that a query asks for. @throws `invalid_argument` */
export function windowFrom(query: WindowQuery, of: keyof typeof maxDays, now: number): Window {
  const end = query.to === undefined ? now : timeFrom("to", query.to);
  const begin = query.from === undefined ? end - defaultMs[of] : timeFrom("from", query.from);
  if (begin >= end) throw invalid("from must be before to");
  if (end - begin > maxDays[of] * dayMs) throw invalid(`the window must be at most ${maxDays[of]} days`);
  return { from: begin, to: end };
}

/** Selects sandboxes by one tag. */
export interface TagFilter {
  readonly key: string;
  /** Empty: sandboxes without the tag. */
  readonly values: readonly string[];
}

/** The selection that a query for usage describes. @throws `invalid_argument` */
export function usageSelectionFrom(query: UsageQuery): {
  readonly tagKey: string | undefined;
  readonly filters: readonly TagFilter[];
  readonly sort: "memory" | "disk";
  readonly limit: number;
  readonly offset: number;
} {
  const { groupBy = "sandbox", sort = "-memoryGbSeconds", limit = "100", cursor = "0" } = query;
  const filters = Object.entries(query).flatMap(([name, value]) => {
    const dimension = /^filter\[(.*)\]$/.exec(name)?.[1];
    if (dimension === undefined) return [];
    const key = /^tag:(.+)$/.exec(dimension)?.[1];
    if (key === undefined) throw invalid(`${name}: a filter has the form filter[tag:KEY]`);
    if (typeof value !== "string") throw invalid(`${name} is repeated: separate its values by commas`);
    return [{ key, values: value === "" ? [] : value.split(",") }];
  });
  return {
    tagKey: groupBy === "sandbox" ? undefined : groupBy.slice("tag:".length),
    filters,
    sort: sort === "-memoryGbSeconds" ? "memory" : "disk",
    limit: Number(limit),
    offset: Number(cursor),
  };
}

const rfc3339 = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$/i;

function timeFrom(name: string, text: string): number {
  const time = rfc3339.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(time)) throw invalid(`${name} must be a time such as 2030-01-31T12:00:00Z`);
  return time;
}

function invalid(message: string): SandboxError<"invalid_argument"> {
  return new SandboxError("invalid_argument", message);
}
