import type { Ratio } from "../statistics/ratio.ts";
import { escaped } from "./html.ts";
import { type Judged, judge } from "./judge.ts";
import { digits } from "./numbers.ts";
import type { BenchResult } from "./result.ts";
import { partsOf } from "./table.ts";

/** A drawing for a page of documentation, by the name of its file. */
export interface Plot {
  readonly file: string;
  readonly svg: string;
}

/** The drawings of a run. A drawing without a measured figure is left out. Pure. */
export function plotsOf(result: BenchResult): readonly Plot[] {
  const judged = result.figures.map((figure) => judge(figure, result.host));
  const plots = [
    { file: "ratios.svg", svg: ratioPlot(judged) },
    { file: "parts.svg", svg: partsPlot(judged) },
  ];
  return plots.flatMap(({ file, svg }) => (svg === undefined ? [] : [{ file, svg }]));
}

const width = 760;
const left = 190;
const right = 30;
const rowHeight = 22;
const top = 24;

/** How many times as long as its floor each figure takes, on a logarithmic scale, with its interval and its promise. */
function ratioPlot(judged: readonly Judged[]): string | undefined {
  const rows = judged.flatMap(({ figure, ratio }) =>
    ratio === undefined ? [] : [{ figure, ratio: slowdown(ratio, figure.better) }],
  );
  if (rows.length === 0) return undefined;
  const ends = rows.flatMap(({ ratio: { low, high } }) => [low, high]);
  const [lowest, highest] = [Math.min(0.5, ...ends), Math.max(2, ...ends)].map(Math.log2) as [number, number];
  const x = (ratio: number): string =>
    (left + ((Math.log2(ratio) - lowest) / (highest - lowest)) * (width - left - right)).toFixed(1);
  const bottom = top + rows.length * rowHeight;
  const marks = scaleOf(lowest, highest).map(
    (mark) =>
      `<path class="${mark === 1 ? "one" : "grid"}" d="M${x(mark)} ${top - 6}V${bottom}"/>` +
      `<text x="${x(mark)}" y="${top - 10}" text-anchor="middle">${mark} x</text>`,
  );
  const lines = rows.map(({ figure, ratio }, index) => {
    const y = top + index * rowHeight + rowHeight / 2;
    const { target } = figure;
    const bound = target?.ratio === undefined ? undefined : inTime(target.ratio, figure.better);
    const promise = bound === undefined ? "" : `<path class="promise" d="M${x(bound)} ${y - 8}v16"/>`;
    const title = `${escaped(figure.title)}: ${digits(ratio.value)} (${digits(ratio.low)} to ${digits(ratio.high)})`;
    return (
      `<g><title>${title}</title><text x="${left - 10}" y="${y + 4}" text-anchor="end">${figure.name}</text>${promise}` +
      `<path class="ours" d="M${x(ratio.low)} ${y}H${x(ratio.high)}"/><circle class="dot" cx="${x(ratio.value)}" cy="${y}" r="4"/></g>`
    );
  });
  return drawing(bottom + 6, [...marks, ...lines]);
}

/** Powers of two within the scale. */
function scaleOf(lowest: number, highest: number): readonly number[] {
  const first = Math.ceil(lowest);
  return Array.from({ length: Math.floor(highest) - first + 1 }, (_, index) => 2 ** (first + index));
}

/** A ratio of times: where more is better, the floor divided by ours. */
function slowdown({ value, low, high }: Ratio, better: "less" | "more"): Ratio {
  return better === "less" ? { value, low, high } : { value: 1 / value, low: 1 / high, high: 1 / low };
}

function inTime(ratio: number, better: "less" | "more"): number {
  return better === "less" ? ratio : 1 / ratio;
}

/** The medians of the parts of each figure that has them, as segments of a line: ours above the floor. */
function partsPlot(judged: readonly Judged[]): string | undefined {
  const rows = judged.flatMap(({ figure: { name, ours, raw } }) =>
    [
      { label: name, side: "ours", parts: [...partsOf(ours)] },
      { label: "", side: "floor", parts: [...partsOf(raw)] },
    ].filter(({ parts }) => parts.length > 0),
  );
  if (rows.length === 0) return undefined;
  const longest = Math.max(...rows.map(({ parts }) => parts.reduce((sum, [, ms]) => sum + Math.max(0, ms), 0)), 1e-9);
  const scale = (width - left - right) / longest;
  const lines = rows.map(({ label, side, parts }, index) => {
    const y = top + index * rowHeight;
    let at = left;
    const boxes = parts.map(([part, ms], number) => {
      const room = Math.max(0, ms) * scale;
      const text =
        room > 6 * part.length ? `<text x="${(at + 3).toFixed(1)}" y="${y + 13}">${escaped(part)}</text>` : "";
      const box =
        `<g><rect class="${side} ${number % 2 === 0 ? "even" : "odd"}" x="${at.toFixed(1)}" y="${y}" ` +
        `width="${room.toFixed(1)}" height="18"><title>${escaped(part)}: ${digits(ms)} ms</title></rect>${text}</g>`;
      at += room;
      return box;
    });
    return `<text x="${left - 10}" y="${y + 13}" text-anchor="end">${label === "" ? side : label}</text>${boxes.join("")}`;
  });
  const note = `<text x="${left}" y="${top - 10}">0 to ${digits(longest)} ms</text>`;
  return drawing(top + rows.length * rowHeight, [note, ...lines]);
}

function drawing(height: number, parts: readonly string[]): string {
  const box = `viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${box}>\n<style>${style}</style>\n${parts.join("\n")}\n</svg>\n`;
}

// A page shows the file as an image, so its colours cannot come from the page.
const style = `
text { font: 11px system-ui, sans-serif; fill: #444; }
path { fill: none; stroke-width: 1; }
.grid { stroke: #ddd; } .one { stroke: #888; } .promise { stroke: #c62828; stroke-width: 2; }
path.ours { stroke: #0b6bcb; stroke-width: 2; } .dot { fill: #0b6bcb; }
rect.ours { fill: #0b6bcb; } rect.floor { fill: #8a8a8a; } .even { fill-opacity: .35; } .odd { fill-opacity: .6; }
@media (prefers-color-scheme: dark) { text { fill: #bbb; } .grid { stroke: #444; } }
`;
