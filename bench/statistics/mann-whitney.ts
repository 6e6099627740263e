/** The result of the Mann-Whitney U test of two samples. */
export interface MannWhitney {
  /** Pairs in which the value of `a` is the larger one; a tie counts half. */
  readonly u: number;
  /**
   * The two-sided p-value: the probability of a difference of at least this size between samples of one distribution.
   */
  readonly p: number;
}

/** Up to this many pairs, and without ties, every order is counted. Beyond it the normal distribution is close. */
const exactPairs = 400;

/** Tests whether one sample tends to larger values than the other. It uses ranks alone, so outliers do not matter. */
export function mannWhitney(a: readonly number[], b: readonly number[]): MannWhitney {
  const pairs = a.length * b.length;
  if (pairs === 0) return { u: 0, p: 1 };
  const u = wins(a, b);
  const ties = tieSizes([...a, ...b]);
  const exact = pairs <= exactPairs && ties.length === 0;
  return { u, p: exact ? exactP(u, a.length, b.length) : normalP(u, a.length, b.length, ties) };
}

function wins(a: readonly number[], b: readonly number[]): number {
  let u = 0;
  for (const x of a) for (const y of b) u += x > y ? 1 : x === y ? 0.5 : 0;
  return u;
}

/** The sizes of the groups of tied values. */
function tieSizes(values: readonly number[]): readonly number[] {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts.values()].filter((count) => count > 1);
}

function exactP(u: number, m: number, n: number): number {
  const ways = waysToReach(m, n);
  const least = Math.min(u, m * n - u);
  const all = ways.reduce((sum, count) => sum + count, 0);
  const tail = ways.slice(0, least + 1).reduce((sum, count) => sum + count, 0);
  return Math.min(1, (2 * tail) / all);
}

/**
 * The number of orders of m and n values for each value of U: the coefficients of the Gaussian binomial
 * (1-x^(n+1))...(1-x^(n+m)) / (1-x)...(1-x^m).
 */
function waysToReach(m: number, n: number): readonly number[] {
  const ways = Array.from({ length: m * n + 1 }, () => 0);
  ways[0] = 1;
  for (let i = 1; i <= m; i += 1) {
    for (let at = ways.length - 1; at >= n + i; at -= 1) ways[at]! -= ways[at - n - i]!;
    for (let at = i; at < ways.length; at += 1) ways[at]! += ways[at - i]!;
  }
  return ways;
}

/** The normal approximation, corrected for continuity and for ties. */
function normalP(u: number, m: number, n: number, ties: readonly number[]): number {
  const all = m + n;
  const tied = ties.reduce((sum, size) => sum + (size ** 3 - size), 0);
  const variance = ((m * n) / 12) * (all + 1 - tied / (all * (all - 1)));
  if (variance <= 0) return 1;
  const distance = Math.abs(u - (m * n) / 2) - 0.5;
  return Math.min(1, 2 * upperTail(distance / Math.sqrt(variance)));
}

/** The upper tail of the normal distribution beyond `z`: Abramowitz and Stegun 26.2.17, with an error below 7.5e-8. */
function upperTail(z: number): number {
  if (z < 0) return 1 - upperTail(-z);
  const t = 1 / (1 + 0.2316419 * z);
  const polynomial = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * polynomial;
}
