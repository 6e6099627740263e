import { version as release } from "@opensandbox/wire/version.ts";
import { defineCommand } from "../command.ts";

export const version = defineCommand({
  summary: "Show the version",
  examples: [{ line: "version", shows: "show the version" }],
  async run(_input, { print }) {
    const node = process.versions.node;
    await print(`osb ${release} (Node ${node})`, { version: release, node });
  },
});
