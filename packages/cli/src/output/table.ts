import { stripVTControlCharacters } from "node:util";
import { visibleLine } from "./visible-text.ts";

/** Rows under a head, as wide as they need to be. A cell is plain text and stays on its line, whatever it contains. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return columns([head, ...rows.map((row) => row.map(visibleLine))]);
}

/** Rows without a head. Cells may be styled; the last column is not padded. */
export function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => widthOf(row[column] ?? ""))));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell + " ".repeat((widths[column] ?? 0) - widthOf(cell)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** Escape sequences that style the text take no room. */
function widthOf(text: string): number {
  return stripVTControlCharacters(text).length;
}
