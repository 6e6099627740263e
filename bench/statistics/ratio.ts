import { median } from "./quantile.ts";

export interface Sample {
  /** Values of one round were measured side by side, so a disturbance affected both. */
  readonly round: number;
  readonly value: number;
}

export interface Ratio {
  /** The median of one side divided by that of the other. */
  readonly value: number;
  /** The 90 % confidence interval of the ratio. */
  readonly low: number;
  readonly high: number;
}

const resamples = 1000;

/**
 * The ratio of one side to the other. The interval comes from drawing whole rounds repeatedly (the bootstrap), which
 * keeps the noise shared by both sides of a round together. Undefined unless both sides have values.
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
    // Without common rounds, each side is drawn independently.
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

/** A seeded generator (mulberry32), so that the same samples give the same interval. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
