import { values } from "../statistics/ratio.ts";
import { type Judged, judge } from "./judge.ts";
import { digits } from "./numbers.ts";
import type { BenchResult, Measured } from "./result.ts";
import { partsOf, word } from "./table.ts";

/**
 * Renders a run as one self-contained page: every value as a dot, the ratio of ours to the floor, and the parts of the
 * time.
 */
export function resultPage(result: BenchResult): string {
  const { host, options } = result;
  const judged = result.figures.map((figure) => judge(figure, host));
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>OpenSandbox benchmark, ${escaped(result.startedAt)}</title>
<style>${style}</style>
<h1>OpenSandbox benchmark</h1>
<p>${escaped(result.startedAt)}: ${escaped(host.hypervisor)} (${escaped(host.accelerator)}), image ${escaped(options.image)},
${options.rounds} rounds. ${host.processors} x ${escaped(host.processor)}, ${host.memoryMib} MiB, Linux ${escaped(host.kernel)}.
Load of the host ${digits(host.loadBefore)} before and ${digits(host.loadAfter)} after.</p>
<p>The floor is the same machine driven raw, with no worker, API or SDK, measured in turn with ours.
<span class="ours">■</span> ours, <span class="floor">■</span> floor; a line marks the median.</p>
<table>
<tr><th>figure<th>p50<th>p95<th>p99<th>floor<th>ratio<th>target<th>
${judged.map(tableRow).join("\n")}
</table>
${judged.map(section).join("\n")}
${result.skipped.map(({ name, because }) => `<p>${escaped(name)} was not measured: ${escaped(because)}.</p>`).join("\n")}
${result.failed.map(({ names, because }) => `<p class="miss">${escaped(names.join(", "))} failed: ${escaped(because)}</p>`).join("\n")}
</html>
`;
}

const style = `
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
td.n { text-align: right; }
h2 { font-size: 1rem; margin: 2rem 0 0; }
.ours { color: #0b6bcb; } .floor { color: #8a8a8a; } .ok { color: #1a7f37; } .miss { color: #c62828; font-weight: bold; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd; } th, td { border-color: #444; } }
`;

function tableRow({ figure, quantiles, floor, ratio, verdicts }: Judged): string {
  const cell = (value: number | undefined): string => `<td class="n">${value === undefined ? "" : digits(value)}`;
  const marks = verdicts.map((verdict) => `<span class="${verdict.met ? "ok" : "miss"}">${word(verdict)}</span>`);
  return `<tr><td><a href="#${figure.name}">${escaped(figure.title)}</a> (${figure.unit})${cell(quantiles?.p50)}${cell(quantiles?.p95)}${cell(quantiles?.p99)}${cell(floor)}${cell(ratio?.value)}<td>${escaped(verdicts.map(({ target }) => target).join(", "))}<td>${marks.join(", ")}`;
}

function section({ figure }: Judged): string {
  const { name, title, unit, floor, note, ours, raw } = figure;
  return `<h2 id="${name}">${escaped(title)} (${unit})</h2>
<p>${[floor === undefined ? "" : `Floor: ${escaped(floor)}.`, note === undefined ? "" : `${escaped(note)}.`].join(" ")}</p>
${strips([
  ["ours", values(ours)],
  ["floor", values(raw)],
])}
${bars([
  ["ours", ours],
  ["floor", raw],
])}`;
}

const width = 720;
const left = 50;
const rowHeight = 26;

/** Each value as a dot on a line that starts at zero. */
function strips(sides: readonly (readonly ["ours" | "floor", readonly number[]])[]): string {
  const shown = sides.filter(([, found]) => found.length > 0);
  const most = Math.max(...shown.flatMap(([, found]) => found)) * 1.02 || 1;
  const x = (value: number): string => (left + (Math.max(0, value) / most) * (width - left - 20)).toFixed(1);
  const rows = shown.map(([side, found], index) => {
    const y = 14 + index * rowHeight;
    const dots = found.map(
      (value) =>
        `<circle cx="${x(value)}" cy="${y}" r="4" fill="currentColor" fill-opacity=".45"><title>${digits(value)}</title></circle>`,
    );
    const sorted = found.toSorted((a, b) => a - b);
    const middle = x(((sorted[(sorted.length - 1) >> 1] ?? 0) + (sorted[sorted.length >> 1] ?? 0)) / 2);
    return `<g class="${side}"><text x="0" y="${y + 4}">${side}</text>${dots.join("")}<path d="M${middle} ${y - 9}v18" stroke="currentColor" stroke-width="2"/></g>`;
  });
  const bottom = 14 + shown.length * rowHeight;
  const marks = [0, 0.25, 0.5, 0.75, 1].map(
    (share) => `<text x="${x(most * share)}" y="${bottom + 4}" text-anchor="middle">${digits(most * share)}</text>`,
  );
  return `<svg viewBox="0 0 ${width} ${bottom + 10}">${rows.join("")}${marks.join("")}</svg>`;
}

/** The medians of the parts, as consecutive segments of a line. */
function bars(sides: readonly (readonly ["ours" | "floor", readonly Measured[]])[]): string {
  const shown = sides
    .map(([side, samples]) => [side, [...partsOf(samples)]] as const)
    .filter(([, parts]) => parts.length > 0);
  if (shown.length === 0) return "";
  const total = (parts: readonly (readonly [string, number])[]): number =>
    parts.reduce((sum, [, ms]) => sum + Math.max(0, ms), 0);
  const scale = (width - left - 20) / Math.max(...shown.map(([, parts]) => total(parts)), 1e-9);
  const rows = shown.map(([side, parts], index) => {
    const y = 4 + index * rowHeight;
    let at = left;
    const boxes = parts.map(([part, ms], number) => {
      const room = Math.max(0, ms) * scale;
      const box = `<g><rect x="${at.toFixed(1)}" y="${y}" width="${room.toFixed(1)}" height="18" fill="currentColor" fill-opacity="${number % 2 === 0 ? 0.35 : 0.6}"><title>${escaped(part)}: ${digits(ms)} ms</title></rect>${room > 6 * part.length ? `<text x="${(at + 3).toFixed(1)}" y="${y + 13}">${escaped(part)}</text>` : ""}</g>`;
      at += room;
      return box;
    });
    return `<g class="${side}"><text x="0" y="${y + 13}">${side}</text>${boxes.join("")}</g>`;
  });
  return `<svg viewBox="0 0 ${width} ${shown.length * rowHeight + 4}">${rows.join("")}</svg>`;
}

export function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}
