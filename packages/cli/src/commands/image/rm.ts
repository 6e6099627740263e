import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const rm = defineCommand({
  summary: "Remove what was built of an image",
  description: "Its recipe stays, so that the next use builds it anew. Remove none that a sandbox runs on.",
  arguments: { name: one("NAME") },
  examples: [{ line: "image rm minimal", shows: "free its space" }],
  async run({ name }, { host, print }) {
    const { readConfig, removeImage } = await import("@opensandbox/server");
    await removeImage(readConfig(host.env), name);
    await print(`removed image ${name}`, { name, removed: true });
  },
});
