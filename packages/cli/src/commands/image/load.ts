import { resolve } from "node:path";
import { defineCommand } from "../../command.ts";
import { one, text } from "#arguments/inputs.ts";
import { megabytes } from "#output/megabytes.ts";

export const load = defineCommand({
  summary: "Make an image of an archive",
  description:
    "Reads what `docker save`, `podman save` or `skopeo` have written: an uncompressed archive with one image. The image " +
    "has the name that the archive gives it, or the one of --name.",
  arguments: { file: one("FILE") },
  options: { name: text("NAME", "the name of the image") },
  examples: [
    { line: "image load app.tar --name example.org/app:1", shows: "load an archive under a name" },
    { line: "run --image example.org/app:1 -- uname -a", shows: "run a command in it" },
  ],
  async run({ file, name }, { host, print, progress, signal }) {
    using shown = progress();
    shown.report(`loading ${file}`);
    const { loadImage, readConfig } = await import("@opensandbox/server");
    const archive = { file: resolve(file), ...(name === undefined ? {} : { name }) };
    const loaded = await loadImage(readConfig(host.env), archive, (step) => shown.reportStep(step), signal);
    shown.pause();
    await print(`loaded ${loaded.name}: ${megabytes(loaded.bytes)} on disk`, loaded);
  },
});
