import { parseSandboxId } from "@opensandbox/wire/ids.ts";
import { publicStatus } from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import * as wire from "@opensandbox/wire/public/usage.ts";
import type { FastifyInstance } from "fastify";
import {
  amountsOf,
  byTag,
  type DescribedUse,
  describedUse,
  filtered,
  pageOf,
  pointsOf,
  type SandboxTotal,
  sumOf,
  type TotalUse,
  withMeasured,
} from "#usage/report.ts";
import type { ApiContext } from "../api-context.ts";
import { serve } from "../serve.ts";

export function serveUsage(app: FastifyInstance, { sandboxes }: ApiContext): void {
  const { stores, clock, shutdown } = sandboxes;

  serve(app, shutdown.ending, wire.getUsage, async ({ organizationId, query }) => {
    const now = clock.now();
    const window = wire.windowFrom(query, "organization", now);
    const { tagKey, filters, sort, limit, offset } = wire.usageSelectionFrom(query);
    // The reply's window may reach into the future, where nothing was used yet.
    const past = { from: window.from, to: Math.min(window.to, now) };
    const measured = await stores.measuredUse.ofOrganization(organizationId, past);
    const all = withMeasured(await stores.usage.ofOrganization(organizationId, past), measured);
    const described = async (uses: readonly SandboxTotal[]): Promise<readonly DescribedUse[]> => {
      const facts = await stores.usage.factsOf(uses.map(({ sandboxId }) => sandboxId));
      return uses.map((use) => describedUse(use, facts));
    };
    // Without a filter, the rows of one page are enough.
    const uses = filters.length === 0 ? all : filtered(await described(all), filters);
    const reply = {
      ...datesOf(window),
      groupBy: tagKey === undefined ? "sandbox" : `tag:${tagKey}`,
      total: totalsOf(sumOf(uses)),
    };
    const cursorOf = (next: number | undefined): string | null => (next === undefined ? null : String(next));
    if (tagKey === undefined) {
      const { page, next } = pageOf(uses, { sort, limit, offset }, ({ sandboxId }) => sandboxId);
      return { ...reply, items: (await described(page)).map(sandboxItemOf), nextCursor: cursorOf(next) };
    }
    const { values, untagged } = byTag(await described(uses), tagKey);
    const { page, next } = pageOf(values, { sort, limit, offset }, ({ value }) => value);
    const items = page.map(({ value, sandboxCount, ...use }) => ({
      ...{ tagKey, tagValue: value, sandboxCount },
      ...totalsOf(use),
    }));
    const rest = { ...totalsOf(sumOf(untagged)), sandboxCount: untagged.length };
    return { ...reply, untagged: rest, items, nextCursor: cursorOf(next) };
  });

  serve(app, shutdown.ending, wire.getSandboxUsage, async ({ organizationId, parameter, query }) => {
    const sandbox = await stores.sandboxes.get(organizationId, parseSandboxId(parameter("id")));
    const now = clock.now();
    const window = wire.windowFrom(query, "sandbox", now);
    const past = { from: window.from, to: Math.min(window.to, now) };
    const isPast = past.to > past.from;
    const points = pointsOf(isPast ? await stores.usage.memoryOf(sandbox.id, past) : [], window);
    const disks = isPast ? await stores.usage.diskOf(sandbox.id, past) : [];
    const spans = isPast ? await stores.measuredUse.ofSandbox(sandbox.id, past) : [];
    // Whole numbers, whose sum is the total.
    const spread = (amountIn: (span: (typeof spans)[number]) => number): readonly number[] =>
      amountsOf(
        spans.map((span) => ({ ...span, amount: amountIn(span) })),
        window,
      ).map(Math.round);
    const [cpu, egress] = [spread((span) => span.cpu), spread((span) => span.egress)];
    const disk = amountsOf(
      disks.map((span) => ({ ...span, amount: span.diskMib * (span.to - span.from) })),
      window,
    );
    const measuredIn = (amounts: { readonly cpu: number; readonly egress: number; readonly disk: number }) => ({
      cpuSeconds: amounts.cpu / 1000,
      egressBytes: amounts.egress,
      diskOverageGbSeconds: gbSeconds(amounts.disk),
    });
    const total = (amounts: readonly number[]): number => amounts.reduce((sum, amount) => sum + amount, 0);
    const memory = points.reduce((sum, point) => sum + point.memory, 0);
    const uptimeMs = points.reduce((sum, point) => sum + point.uptimeMs, 0);
    return {
      sandboxId: sandbox.id,
      ...(sandbox.alias === "" ? {} : { alias: sandbox.alias }),
      ...datesOf(window),
      totals: {
        memoryAllocatedGbSeconds: gbSeconds(memory),
        memoryUsedGbSeconds: 0,
        uptimeSeconds: uptimeMs / 1000,
        memoryAllocatedPeakMb: Math.max(0, ...points.map(({ peakMib }) => peakMib)),
        memoryUsedPeakMb: 0,
        ...measuredIn({ cpu: total(cpu), egress: total(egress), disk: total(disk) }),
      },
      points: points.map((point, index) => ({
        ts: new Date(point.from).toISOString(),
        memoryAllocatedGbSeconds: gbSeconds(point.memory),
        memoryUsedGbSeconds: 0,
        uptimeSeconds: point.uptimeMs / 1000,
        allocatedMemoryMb: point.peakMib,
        usedMemoryMbAvg: 0,
        usedMemoryMbPeak: 0,
        ...measuredIn({ cpu: cpu[index] ?? 0, egress: egress[index] ?? 0, disk: disk[index] ?? 0 }),
      })),
    };
  });
}

function sandboxItemOf(use: DescribedUse) {
  const { sandboxId, state, alias, tags, tagsUpdatedAt } = use;
  return {
    sandboxId,
    ...(alias === "" ? {} : { alias }),
    ...(state === undefined ? {} : { status: publicStatus(state) }),
    tags: { ...tags },
    tagsLastUpdatedAt: tagsUpdatedAt?.toISOString() ?? null,
    ...totalsOf(use),
  };
}

function totalsOf({ memory, disk, vcpus, cpu, egress }: TotalUse) {
  return {
    memoryGbSeconds: gbSeconds(memory),
    diskOverageGbSeconds: gbSeconds(disk),
    vcpuSeconds: vcpus / 1000,
    cpuSeconds: cpu / 1000,
    egressBytes: Math.round(egress),
  };
}

/** Converts from MiB times milliseconds. */
function gbSeconds(amount: number): number {
  return amount / 1024 / 1000;
}

function datesOf({ from, to }: wire.Window): { readonly from: string; readonly to: string } {
  return { from: new Date(from).toISOString(), to: new Date(to).toISOString() };
}
