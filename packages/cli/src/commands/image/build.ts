import { defineCommand } from "../../command.ts";
import { megabytes } from "#output/megabytes.ts";
import { optional } from "#arguments/inputs.ts";

export const build = defineCommand({
  summary: "Build an image unless it exists",
  description:
    "The first use of an image builds it too; this command builds it in advance. The default NAME is `default`.",
  arguments: { name: optional("NAME") },
  examples: [
    { line: "image build", shows: "build the default image" },
    { line: "image build minimal", shows: "build the minimal image" },
  ],
  async run({ name = "default" }, { host, print, progress, signal }) {
    using shown = progress();
    shown.report(`building image ${name}`);
    const { buildImage, readConfig } = await import("@opensandbox/server");
    const onProgress = ({ step, percent }: { readonly step: string; readonly percent?: number }): void =>
      shown.report(percent === undefined ? step : `${step} (${Math.round(percent)} %)`);
    const built = await buildImage(readConfig(host.env), name, onProgress, signal);
    shown.pause();
    await print(`built image ${name}: ${megabytes(built.bytes)} on disk`, built);
  },
});
