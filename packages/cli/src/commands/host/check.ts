import { defineCommand } from "../../command.ts";
import { launcherPath } from "../../installation.ts";
import { findingLines } from "./finding-lines.ts";
import { checkSetupInput, optionsFrom, setupOptions } from "./host-options.ts";

export const check = defineCommand({
  summary: "Compare this host with the result of 'host setup'",
  description: `Changes nothing. Without options, it uses those of the last set-up. Exits with 1 when something differs. Some files
can only be read by root.`,
  options: setupOptions,
  examples: [
    { line: "host check", shows: "list the differences, each with its remedy" },
    { line: "host check --json | jq -r '.[] | select(.state != \"ok\") | .fix'", shows: "print only the remedies" },
  ],
  check: checkSetupInput,
  async run(input, { host, print }) {
    const { checkHost } = await import("./set-up-host.ts");
    const { System } = await import("./system.ts");
    const options = optionsFrom(input);
    const findings = await checkHost({
      system: new System(),
      launcher: launcherPath,
      options,
      program: host.program,
    });
    await print({ styled: findingLines(findings, host.stdout) }, findings);
    return findings.some(({ state }) => state === "different") ? 1 : 0;
  },
});
