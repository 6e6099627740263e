import { defineCommand } from "../../command.ts";
import { megabytes } from "#output/megabytes.ts";
import { one } from "#arguments/inputs.ts";

export const pull = defineCommand({
  summary: "Pull an image from a registry",
  description:
    "Makes an image of a registry, such as `python:3.12` or `ghcr.io/x/y:tag`, into one that sandboxes start from. The " +
    "first use of such a name pulls it too; this command also asks what the tag means now. No Docker is involved. " +
    "OPENSANDBOX_REGISTRIES names the registries that are allowed.",
  arguments: { name: one("IMAGE") },
  examples: [
    { line: "image pull python:3.12", shows: "pull an image of Docker Hub" },
    { line: "run --image python:3.12 -- python3 -V", shows: "run a command in it" },
  ],
  async run({ name }, { host, print, progress, signal }) {
    using shown = progress();
    shown.report(`pulling ${name}`);
    const { pullImage, readConfig } = await import("@opensandbox/server");
    const pulled = await pullImage(readConfig(host.env), name, (step) => shown.reportStep(step), signal);
    shown.pause();
    await print(`pulled ${pulled.name}: ${megabytes(pulled.bytes)} on disk`, pulled);
  },
});
