import { quantile } from "../statistics/quantile.ts";
import { type Ratio, ratioOf, values } from "../statistics/ratio.ts";
import type { BenchResult, FigureResult } from "./result.ts";

export interface Verdict {
  /** The promise, as text. */
  readonly target: string;
  readonly met: boolean;
  /** False: the values scatter so much that another run may contradict the verdict. */
  readonly sure: boolean;
}

export interface Judged {
  readonly figure: FigureResult;
  readonly quantiles: { readonly p50: number; readonly p95: number; readonly p99: number } | undefined;
  readonly floor: number | undefined;
  readonly ratio: Ratio | undefined;
  readonly verdicts: readonly Verdict[];
}

/** Judges a figure by its promises. Promises for a host with KVM are judged only on such a host. */
export function judge(figure: FigureResult, host: Pick<BenchResult["host"], "accelerator">): Judged {
  const { ours, raw, target = {} } = figure;
  const found = values(ours);
  const ratio = ours.length === 0 ? undefined : ratioOf(ours, raw);
  const p50 = quantile(found, 0.5);
  const verdicts: Verdict[] = [];
  if (target.ratio !== undefined && ratio !== undefined) {
    const promise = `${sign(figure)} ${target.ratio} x floor`;
    verdicts.push(verdictOf(figure, promise, target.ratio, ratio));
  }
  if (target.onKvm !== undefined && host.accelerator === "kvm" && found.length > 0) {
    const text = `${sign(figure)} ${target.onKvm} ${figure.unit}`;
    verdicts.push(
      verdictOf(figure, text, target.onKvm, { value: p50, low: quantile(found, 0.25), high: quantile(found, 0.75) }),
    );
  }
  return {
    figure,
    quantiles:
      found.length === 0
        ? undefined
        : { p50, p95: quantile(found, tail(figure, 0.95)), p99: quantile(found, tail(figure, 0.99)) },
    floor: raw.length === 0 ? undefined : quantile(values(raw), 0.5),
    ratio,
    verdicts,
  };
}

/** Figures that miss a promise regardless of the noise. */
export function missedPromises({ figures, host }: BenchResult): readonly Judged[] {
  return figures.map((figure) => judge(figure, host)).filter(isMissed);
}

export function isMissed({ verdicts }: Judged): boolean {
  return verdicts.some(({ met, sure }) => !met && sure);
}

/** Where more is better, the low end is the bad one. */
function tail({ better }: FigureResult, q: number): number {
  return better === "less" ? q : 1 - q;
}

function sign({ better }: FigureResult): string {
  return better === "less" ? "<=" : ">=";
}

function verdictOf({ better }: FigureResult, target: string, bound: number, { value, low, high }: Ratio): Verdict {
  const holds = (found: number): boolean => (better === "less" ? found <= bound : found >= bound);
  return { target, met: holds(value), sure: holds(low) === holds(value) && holds(high) === holds(value) };
}
