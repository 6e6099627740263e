import { styleText } from "node:util";
import type { Finding } from "@opensandbox/server";
import { defineCommand } from "../../command.ts";
import type { Output } from "#output/write-to.ts";
import { columns } from "#output/table.ts";
import { visibleLine } from "#output/visible-text.ts";

export const doctor = defineCommand({
  summary: "Check what this host supports and what it lacks",
  description: "Changes nothing. Exits with 1 when the host cannot run machines.",
  examples: [
    { line: "doctor", shows: "list every finding and its remedy" },
    { line: "doctor --json | jq -r '.[] | select(.level != \"ok\") | .fix'", shows: "print only the remedies" },
  ],
  async run(_input, { host, print, progress }) {
    using shown = progress();
    shown.report("checking this host");
    const { examineHost, readConfig } = await import("@opensandbox/server");
    const findings = await examineHost(readConfig(host.env));
    shown.pause();
    await print({ styled: findingLines(findings, host.stdout) }, findings);
    return findings.some(({ level }) => level === "fail") ? 1 : 0;
  },
});

const colours = { ok: "green", warn: "yellow", fail: "red" } as const;

function findingLines(findings: readonly Finding[], stream: Output): string {
  const rows = findings.flatMap(({ level, name, detail, fix }) => [
    [styleText(colours[level], level, { stream }), name, visibleLine(detail)],
    ...(fix === undefined ? [] : [["", "", `-> ${visibleLine(fix)}`]]),
  ]);
  return columns(rows);
}
