import type { TagFilter, Window } from "@opensandbox/wire/public/usage.ts";
import type { Measured } from "./measured-use.ts";
import type { MemorySpan, SandboxFacts, SandboxUse, Use } from "./usage-store.ts";

const dayMs = 24 * 3_600_000;
const minuteMs = 60_000;
const hourMs = 3_600_000;

/** What was allocated, and what was measured. */
export type TotalUse = Use & Measured;
export type SandboxTotal = SandboxUse & Measured;

/** Joins what sandboxes had with what they used. A sandbox may have used something shortly before the window. Pure. */
export function withMeasured(
  uses: readonly SandboxUse[],
  measured: ReadonlyMap<string, Measured>,
): readonly SandboxTotal[] {
  const rest = new Map(measured);
  const joined = uses.map((use) => {
    rest.delete(use.sandboxId);
    return { ...use, ...(measured.get(use.sandboxId) ?? { cpu: 0, egress: 0 }) };
  });
  return [...joined, ...[...rest].map(([sandboxId, use]) => ({ sandboxId, memory: 0, disk: 0, vcpus: 0, ...use }))];
}

/** A sandbox's use, and the present facts of its row. */
export type DescribedUse = SandboxTotal & SandboxFacts;

export function describedUse(use: SandboxTotal, facts: ReadonlyMap<string, SandboxFacts>): DescribedUse {
  return { ...use, ...(facts.get(use.sandboxId) ?? { alias: "", tags: {} }) };
}

/** The use of the sandboxes whose tags have one value. */
export interface TagUse extends TotalUse {
  readonly value: string;
  readonly sandboxCount: number;
}

export function sumOf(uses: readonly TotalUse[]): TotalUse {
  const sum = { memory: 0, disk: 0, vcpus: 0, cpu: 0, egress: 0 };
  for (const { memory, disk, vcpus, cpu, egress } of uses) {
    sum.memory += memory;
    sum.disk += disk;
    sum.vcpus += vcpus;
    sum.cpu += cpu;
    sum.egress += egress;
  }
  return sum;
}

/** The sandboxes that every filter selects. Pure. */
export function filtered(uses: readonly DescribedUse[], filters: readonly TagFilter[]): readonly DescribedUse[] {
  return uses.filter(({ tags }) =>
    filters.every(({ key, values }) => {
      const value = Object.hasOwn(tags, key) ? tags[key] : undefined;
      return values.length === 0 ? value === undefined : value !== undefined && values.includes(value);
    }),
  );
}

/** The use by the values of a tag, and the use of the sandboxes without the tag. Pure. */
export function byTag(
  uses: readonly DescribedUse[],
  key: string,
): { readonly values: readonly TagUse[]; readonly untagged: readonly TotalUse[] } {
  const groups = Map.groupBy(uses, ({ tags }) => (Object.hasOwn(tags, key) ? tags[key] : undefined));
  const untagged = groups.get(undefined) ?? [];
  groups.delete(undefined);
  const values = [...groups].map(([value = "", own]) => ({ value, sandboxCount: own.length, ...sumOf(own) }));
  return { values, untagged };
}

/** A page of the largest uses, with the offset of the next page. Pure. */
export function pageOf<Item extends Use>(
  items: readonly Item[],
  { sort, offset, limit }: { readonly sort: "memory" | "disk"; readonly offset: number; readonly limit: number },
  nameOf: (item: Item) => string,
): { readonly page: readonly Item[]; readonly next: number | undefined } {
  const sorted = items.toSorted((a, b) => b[sort] - a[sort] || (nameOf(a) < nameOf(b) ? -1 : 1));
  const end = offset + limit;
  return { page: sorted.slice(offset, end), next: end < sorted.length ? end : undefined };
}

/** The memory of a sandbox within a part of a window. */
export interface MemoryPoint {
  /** Milliseconds since 1970. */
  readonly from: number;
  /** MiB times milliseconds. */
  readonly memory: number;
  readonly uptimeMs: number;
  readonly peakMib: number;
}

/**
 * Divides a window into points of a minute each, or of an hour when it is longer than a day. The first and the last may
 * be shorter. Pure.
 */
export function pointsOf(spans: readonly MemorySpan[], { from, to }: Window): readonly MemoryPoint[] {
  const { step, first, count } = divisionOf({ from, to });
  const points = Array.from({ length: count }, (_, index) => ({
    from: Math.max(from, (first + index) * step),
    ...{ memory: 0, uptimeMs: 0, peakMib: 0 },
  }));
  for (const span of spans) {
    for (let index = Math.floor(span.from / step) - first; index < count; index += 1) {
      const begin = Math.max(span.from, (first + index) * step);
      const end = Math.min(span.to, (first + index + 1) * step);
      const point = points[index];
      if (end <= begin || point === undefined) break;
      point.memory += span.memoryMib * (end - begin);
      point.uptimeMs += end - begin;
      point.peakMib = Math.max(point.peakMib, span.memoryMib);
    }
  }
  return points;
}

/** An amount that is spread evenly over a span. */
export interface Spread extends Window {
  readonly amount: number;
}

/** The amounts within each of the points of {@link pointsOf}. Pure. */
export function amountsOf(spans: readonly Spread[], window: Window): readonly number[] {
  const { step, first, count } = divisionOf(window);
  const amounts = Array.from({ length: count }, () => 0);
  for (const { from, to, amount } of spans) {
    for (let index = Math.max(0, Math.floor(from / step) - first); index < count; index += 1) {
      const [begin, end] = [Math.max(from, (first + index) * step), Math.min(to, (first + index + 1) * step)];
      if (end <= begin) break;
      amounts[index] = (amounts[index] ?? 0) + (amount * (end - begin)) / (to - from);
    }
  }
  return amounts;
}

function divisionOf({ from, to }: Window): { readonly step: number; readonly first: number; readonly count: number } {
  const step = to - from > dayMs ? hourMs : minuteMs;
  const first = Math.floor(from / step);
  return { step, first, count: Math.ceil(to / step) - first };
}
