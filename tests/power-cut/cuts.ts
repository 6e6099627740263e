import type { Random } from "../../packages/worker/src/testing/hostile/random.ts";
import type { LogEntry } from "./write-log.ts";

/** What an answer has told a client, and the size of the log when the request was sent and when the answer arrived. */
export interface Promised<Fact> {
  readonly fact: Fact;
  readonly askedAt: number;
  readonly answeredAt: number;
}

/** A moment at which the power fails, and the writes that the disk keeps. */
export interface Cut {
  readonly name: string;
  /** Index of a flush: everything before it is on the disk. */
  readonly flushed: number;
  /** Indices of later writes that are on the disk, too. */
  readonly survivors: readonly number[];
  /** Size of the log at the next flush. Until then the power may fail and leave this disk. */
  readonly until: number;
}

/** What a server knows after a cut: `kept` was answered before it; `open` was asked for before it. */
export interface Facts<Fact> {
  readonly kept: readonly Fact[];
  readonly open: readonly Fact[];
}

/**
 * For each flush one cut that loses every later write, and one that keeps a random choice of the writes up to the next
 * flush. A disk may do both: it reorders writes, and a write is safe only after a flush that follows it.
 */
export function cutsOf(entries: readonly LogEntry[], random: Random): readonly Cut[] {
  const flushes = entries.flatMap(({ kind }, index) => (kind === "flush" ? [index] : []));
  return flushes.flatMap((flushed, number) => {
    const next = flushes[number + 1] ?? entries.length;
    const until = entries[next]?.end ?? Infinity;
    const later = Array.from({ length: next - flushed - 1 }, (_, offset) => flushed + 1 + offset);
    const name = `power cut after flush ${number + 1} of ${flushes.length}`;
    const some = later.filter(() => random.chance(50));
    const nothing = { name: `${name}, no later write is kept`, flushed, survivors: [], until };
    if (later.length === 0) return [nothing];
    return [
      nothing,
      { name: `${name}, ${some.length} of ${later.length} later writes are kept`, flushed, survivors: some, until },
    ];
  });
}

export function factsAt<Fact>(promised: readonly Promised<Fact>[], { until }: Cut): Facts<Fact> {
  // The power may have failed at any moment until the next flush, so after each answer that came before it.
  const kept = promised.filter(({ answeredAt }) => answeredAt < until);
  const open = promised.filter((one) => !kept.includes(one) && one.askedAt < until);
  return { kept: kept.map(({ fact }) => fact), open: open.map(({ fact }) => fact) };
}

/** At most `count` of the values, in order: a random one of each of `count` equal parts. */
export function spread<Value>(values: readonly Value[], count: number, random: Random): readonly Value[] {
  if (values.length <= count) return values;
  const start = (part: number): number => Math.floor((part * values.length) / count);
  return Array.from({ length: count }, (_, part) => start(part) + random.below(start(part + 1) - start(part))).flatMap(
    (index) => values[index] ?? [],
  );
}
