import { getSandboxUsage, getUsage, type UsageReply } from "@opensandbox/wire/public/usage.ts";
import type { HttpClient } from "#transport/http.ts";

/** What sandboxes had over a window of time by allocated sizes, and what their machines used. */
export interface UsageTotals {
  /** 1 GB is 1024 MiB. */
  readonly memoryGbSeconds: number;
  /** Disk beyond the included 20 GB of each sandbox. */
  readonly diskOverageGbSeconds: number;
  readonly vcpuSeconds: number;
  /** Processor time of the machines, measured on their hosts. */
  readonly cpuSeconds: number;
  /** Bytes that have left the sandboxes' networks. 0 where a host does not count them. */
  readonly egressBytes: number;
}

export interface SandboxUsage extends UsageTotals {
  readonly sandboxId: string;
  readonly alias?: string | undefined;
  /** Absent when the sandbox's row, with its tags, has been removed. */
  readonly status?: string | undefined;
  readonly tags: Readonly<Record<string, string>>;
}

export interface TagUsage extends UsageTotals {
  readonly value: string;
  readonly sandboxCount: number;
}

/** RFC 3339. Default: the last 30 days, or the last hour of one sandbox. */
export interface UsageWindow {
  readonly from?: string;
  readonly to?: string;
}

export interface UsageQuery extends UsageWindow {
  /**
   * Values of tags, by key. Selects the sandboxes that have one of the values of every tag. An empty list selects those
   * without the tag.
   */
  readonly tags?: Readonly<Record<string, readonly string[]>>;
  /** Default: memory. */
  readonly sort?: "memory" | "disk";
  /** 100 without a limit, and 1000 at most. */
  readonly limit?: number;
  /** The `next` of an earlier page. */
  readonly after?: string;
}

export interface UsagePage<Item> {
  readonly from: string;
  readonly to: string;
  /** The total of all pages. */
  readonly total: UsageTotals;
  /** The largest first. */
  readonly items: readonly Item[];
  /** Absent: this is the last page. */
  readonly next?: string;
}

export interface UsageOverTime {
  readonly from: string;
  readonly to: string;
  readonly memoryGbSeconds: number;
  readonly uptimeSeconds: number;
  readonly peakMemoryMib: number;
  readonly diskOverageGbSeconds: number;
  readonly cpuSeconds: number;
  readonly egressBytes: number;
  /** One point a minute, or an hour when the window is longer than a day. */
  readonly points: readonly {
    readonly from: string;
    readonly memoryGbSeconds: number;
    readonly uptimeSeconds: number;
    readonly peakMemoryMib: number;
    readonly diskOverageGbSeconds: number;
    /** Stored by the hour: a minute has its share of it. */
    readonly cpuSeconds: number;
    /** Like `cpuSeconds`. */
    readonly egressBytes: number;
  }[];
}

export interface UsageClient {
  bySandbox(query?: UsageQuery, signal?: AbortSignal): Promise<UsagePage<SandboxUsage>>;
  /** Sums the use by the values of a tag. `untagged` sums the sandboxes without it. */
  byTag(
    key: string,
    query?: UsageQuery,
    signal?: AbortSignal,
  ): Promise<UsagePage<TagUsage> & { readonly untagged: UsageTotals & { readonly sandboxCount: number } }>;
  ofSandbox(id: string, window?: UsageWindow, signal?: AbortSignal): Promise<UsageOverTime>;
}

export function usageClient(http: HttpClient): UsageClient {
  const ask = async (groupBy: string, query: UsageQuery, signal: AbortSignal | undefined): Promise<UsageReply> => {
    const { from, to, tags = {}, sort = "memory", limit, after } = query;
    const filters = Object.entries(tags).map(([key, values]) => [`filter[tag:${key}]`, values.join(",")]);
    return await http.call(
      getUsage,
      {
        query: {
          ...{ groupBy, from, to, cursor: after },
          sort: sort === "memory" ? "-memoryGbSeconds" : "-diskOverageGbSeconds",
          limit: limit === undefined ? undefined : String(limit),
          ...(Object.fromEntries(filters) as Record<string, string>),
        },
      },
      signal,
    );
  };
  return {
    async bySandbox(query = {}, signal) {
      const reply = await ask("sandbox", query, signal);
      const items = reply.items.flatMap((item) => {
        if (!("sandboxId" in item)) return [];
        const { sandboxId, alias, status, tags } = item;
        return [{ sandboxId, alias, status, tags, ...totalsOf(item) }];
      });
      return { ...pageOf(reply), items };
    },
    async byTag(key, query = {}, signal) {
      const reply = await ask(`tag:${key}`, query, signal);
      const items = reply.items.flatMap((item) => {
        if (!("tagValue" in item)) return [];
        return [{ value: item.tagValue, sandboxCount: item.sandboxCount, ...totalsOf(item) }];
      });
      const { sandboxCount, ...rest } = reply.untagged ?? { ...noUse, sandboxCount: 0 };
      return { ...pageOf(reply), items, untagged: { ...totalsOf(rest), sandboxCount } };
    },
    async ofSandbox(id, { from, to } = {}, signal) {
      const reply = await http.call(getSandboxUsage, { parameters: { id }, query: { from, to } }, signal);
      const { totals, points } = reply;
      return {
        ...{ from: reply.from, to: reply.to },
        memoryGbSeconds: totals.memoryAllocatedGbSeconds,
        uptimeSeconds: totals.uptimeSeconds,
        peakMemoryMib: totals.memoryAllocatedPeakMb,
        ...measuredOf(totals),
        points: points.map((point) => ({
          from: point.ts,
          memoryGbSeconds: point.memoryAllocatedGbSeconds,
          uptimeSeconds: point.uptimeSeconds,
          peakMemoryMib: point.allocatedMemoryMb,
          ...measuredOf(point),
        })),
      };
    },
  };
}

const noUse: UsageTotals = {
  ...{ memoryGbSeconds: 0, diskOverageGbSeconds: 0, vcpuSeconds: 0 },
  ...{ cpuSeconds: 0, egressBytes: 0 },
};

function totalsOf(total: UsageReply["total"]): UsageTotals {
  const { memoryGbSeconds, vcpuSeconds } = total;
  return { memoryGbSeconds, vcpuSeconds, ...measuredOf(total) };
}

interface Measured {
  readonly diskOverageGbSeconds?: number | undefined;
  readonly cpuSeconds?: number | undefined;
  readonly egressBytes?: number | undefined;
}

/** The numbers that earlier servers do not report. */
function measuredOf({ diskOverageGbSeconds = 0, cpuSeconds = 0, egressBytes = 0 }: Measured) {
  return { diskOverageGbSeconds, cpuSeconds, egressBytes };
}

function pageOf({ from, to, total, nextCursor }: UsageReply) {
  return { from, to, total: totalsOf(total), ...(nextCursor === null ? {} : { next: nextCursor }) };
}
