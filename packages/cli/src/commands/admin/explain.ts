import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { table } from "#output/table.ts";

export const explain = defineCommand({
  summary: "Show why a sandbox was placed on its worker",
  description: `The fleet's server keeps the reasons of its last 10,000 placements until it ends. Of a sandbox that another server placed, or
an earlier one, it shows what would be chosen now.`,
  arguments: { id: one("SANDBOX") },
  examples: [{ line: "admin explain sb-1a2b3c4d5e6f7081", shows: "show the reason for each worker" }],
  async run({ id }, { host, print, signal }) {
    const { readConfig } = await import("@opensandbox/server/config.ts");
    const { explainPlacement } = await import("@opensandbox/server/fleet.ts");
    const choice = await explainPlacement(readConfig(host.env), id, signal);
    const rows = choice.verdicts
      .toSorted((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity))
      .map(({ workerId, score, reason }) => [
        workerId,
        workerId === choice.workerId
          ? choice.isPresent
            ? "would be chosen"
            : "chosen"
          : score === undefined
            ? "refused"
            : "possible",
        score === undefined ? "-" : score.toFixed(1),
        reason,
      ]);
    await print(table(["WORKER", "VERDICT", "SCORE", "REASON"], rows), choice);
  },
});
