import { columns, table } from "../../packages/cli/src/output/table.ts";
import { median } from "../statistics/quantile.ts";
import { type Judged, judge, type Verdict } from "./judge.ts";
import { digits } from "./numbers.ts";
import type { BenchResult, Measured } from "./result.ts";

/** Renders a run as text: a line for each figure, and the notes that a reader needs. */
export function resultTable(result: BenchResult): string {
  const { host, options } = result;
  const judged = result.figures.map((figure) => judge(figure, host));
  const head = ["figure", "", "p50", "p95", "p99", "floor", "ratio", "(90 %)", "target", ""];
  const lines = [
    `${host.hypervisor} (${host.accelerator}), image ${options.image}, ${options.rounds} rounds in ${digits(result.seconds)} s`,
    `${host.processors} x ${host.processor}, ${host.memoryMib} MiB, Linux ${host.kernel}, Node ${host.node}`,
    `load of the host: ${digits(host.loadBefore)} before, ${digits(host.loadAfter)} after`,
    "",
    table(head, judged.map(row)),
  ];
  const notes = result.figures.flatMap(({ name, note }) => (note === undefined ? [] : [[name, note]]));
  const skipped = result.skipped.map(({ name, because }) => [name, `not measured: ${because}`]);
  if (notes.length + skipped.length > 0) lines.push("", columns([...notes, ...skipped]));
  for (const { names, because, log } of result.failed) lines.push("", `FAILED: ${names.join(", ")}: ${because}`, log);
  return lines.join("\n");
}

function row({ figure, quantiles, floor, ratio, verdicts }: Judged): string[] {
  const number = (value: number | undefined): string => (value === undefined ? "" : digits(value));
  return [
    figure.name,
    figure.unit,
    number(quantiles?.p50),
    number(quantiles?.p95),
    number(quantiles?.p99),
    number(floor),
    number(ratio?.value),
    ratio === undefined ? "" : `${digits(ratio.low)}-${digits(ratio.high)}`,
    verdicts.map(({ target }) => target).join(", "),
    verdicts.map(word).join(", "),
  ];
}

export function word({ met, sure }: Verdict): string {
  return `${met ? "ok" : "MISS"}${sure ? "" : " (not sure)"}`;
}

/** The parts of each figure that has any, ours beside the floor's, as medians in milliseconds. */
export function explanation({ figures }: BenchResult): string {
  return figures
    .filter(({ ours, raw }) => [...ours, ...raw].some(({ parts }) => parts !== undefined))
    .map(({ name, title, ours, raw }) => {
      const parts = [partsOf(ours), partsOf(raw)].map((part) =>
        [...part].map(([part, ms]) => [part, `${digits(ms)} ms`]),
      );
      const [a = [], b = []] = parts;
      const rows = Array.from({ length: Math.max(a.length, b.length) }, (_, index) => [
        ...(a[index] ?? ["", ""]),
        ...(b[index] ?? ["", ""]),
      ]);
      return `${name}: ${title}\n${columns([["  ours", "", "  floor", ""], ...rows.map(([x = "", ...rest]) => [`  ${x}`, ...indentThird(rest)])])}`;
    })
    .join("\n\n");
}

function indentThird([ms = "", part = "", floorMs = ""]: readonly string[]): string[] {
  return [ms, `  ${part}`, floorMs];
}

/** The median of each part. */
export function partsOf(samples: readonly Measured[]): ReadonlyMap<string, number> {
  const found = new Map<string, number[]>();
  for (const { parts = {} } of samples) {
    for (const [part, milliseconds] of Object.entries(parts)) {
      found.set(part, [...(found.get(part) ?? []), milliseconds]);
    }
  }
  return new Map([...found].map(([part, all]) => [part, median(all)]));
}
