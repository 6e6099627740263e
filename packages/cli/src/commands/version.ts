import { defineCommand } from "../command.ts";

export const version = defineCommand({
  summary: "Show the version",
  examples: [{ line: "version", shows: "show the version" }],
  async run(_input, { print }) {
    const { default: manifest } = await import("../../package.json", { with: { type: "json" } });
    const { version } = manifest;
    await print(`osb ${version} (Node ${process.versions.node})`, { version, node: process.versions.node });
  },
});
