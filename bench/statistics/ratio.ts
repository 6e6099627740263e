import { median } from "./quantile.ts";

export interface Sample {
  /** Values of the same round were measured side by side: what disturbed one disturbed the other. */
  readonly round: number;
  readonly value: number;
}

export interface Ratio {
  /** Median over median. */
  readonly value: number;
  /** In nine of ten runs like this one the ratio would lie between these. */
  readonly low: number;
  readonly high: number;
}

const resamples = 1000;

/**
 * How many times the one is the other. The interval comes from drawing whole rounds again and again (the bootstrap), so
 * that the noise which both of a round share is kept together. Undefined without values on both sides.
 */
export function ratioOf(ours: readonly Sample[], floor: readonly Sample[]): Ratio | undefined {
  const value = median(values(ours)) / median(values(floor));
  if (Number.isNaN(value)) return undefined;
  const oursBy = byRound(ours);
  const floorBy = byRound(floor);
  const both = [...oursBy.keys()].filter((round) => floorBy.has(round));
  const random = randomOf(1);
  const found: number[] = [];
  for (let index = 0; index < resamples; index += 1) {
    // Without rounds in common each side is drawn from for itself.
    const [a, b] = both.length > 0 ? twice(draw(both, random)) : [keys(oursBy, random), keys(floorBy, random)];
    found.push(
      median(a.flatMap((round) => oursBy.get(round) ?? [])) / median(b.flatMap((round) => floorBy.get(round) ?? [])),
    );
  }
  found.sort((a, b) => a - b);
  const at = (share: number): number => found[Math.round((found.length - 1) * share)] ?? value;
  return { value, low: Math.min(value, at(0.05)), high: Math.max(value, at(0.95)) };
}

export function values(samples: readonly Sample[]): number[] {
  return samples.map(({ value }) => value);
}

function byRound(samples: readonly Sample[]): ReadonlyMap<number, number[]> {
  const rounds = new Map<number, number[]>();
  for (const { round, value } of samples) {
    const present = rounds.get(round);
    if (present === undefined) rounds.set(round, [value]);
    else present.push(value);
  }
  return rounds;
}

function twice<Value>(value: Value): readonly [Value, Value] {
  return [value, value];
}

function keys(rounds: ReadonlyMap<number, unknown>, random: () => number): number[] {
  return draw([...rounds.keys()], random);
}

function draw(from: readonly number[], random: () => number): number[] {
  return from.map(() => from[Math.floor(random() * from.length)]!);
}

/** The same numbers each time, so that the same samples give the same answer: mulberry32. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
