import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";

export const rm = defineCommand({
  summary: "Remove a built image",
  description: "The recipe stays, and the next use builds the image again. Do not remove an image that a sandbox uses.",
  arguments: { name: one("NAME") },
  examples: [{ line: "image rm minimal", shows: "remove a built image and free its disk space" }],
  async run({ name }, { host, print }) {
    const { readConfig, removeImage } = await import("@opensandbox/server");
    await removeImage(readConfig(host.env), name);
    await print(`removed image ${name}`, { name, removed: true });
  },
});
