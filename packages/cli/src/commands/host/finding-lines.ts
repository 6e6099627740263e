import { styleText } from "node:util";
import { columns } from "#output/table.ts";
import { visibleLine } from "#output/visible-text.ts";
import type { Output } from "#output/write-to.ts";
import type { HostFinding } from "./set-up-host.ts";

const colours = { ok: "green", optional: "yellow", different: "red" } as const;

export function findingLines(findings: readonly HostFinding[], stream: Output): string {
  const rows = findings.flatMap(({ step, state, detail, fix }) => [
    [styleText(colours[state], state, { stream }), step, visibleLine(detail ?? "")],
    ...(fix === undefined ? [] : [["", "", `-> ${visibleLine(fix)}`]]),
  ]);
  return columns(rows);
}
