import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { optional, pairs, text } from "#arguments/inputs.ts";
import { usageError } from "#arguments/usage-error.ts";
import { megabytes } from "#output/megabytes.ts";

export const build = defineCommand({
  summary: "Build an image: of a recipe, or of a Dockerfile",
  description: `Without --tag, builds the image of a recipe unless it exists. The first use of the image builds it too. The default NAME
is \`default\`.

With --tag, builds the Dockerfile of a directory in a sandbox, and makes an image of this host of it: NAME is the
directory, and its default is the current one. No Docker is involved. Files that .dockerignore names are left out. The
build's log goes to standard error, and osb exits with the build's code.`,
  arguments: { name: optional("NAME") },
  options: {
    tag: text("IMAGE", "build a Dockerfile, and give the image this name", "t"),
    file: text("FILE", "the Dockerfile (default: Dockerfile in the directory)", "f"),
    buildArg: pairs("set a build argument"),
    target: text("STAGE", "the stage of the Dockerfile to build"),
  },
  examples: [
    { line: "image build", shows: "build the default image" },
    { line: "image build minimal", shows: "build the minimal image" },
    { line: "image build --tag example.org/app:1 .", shows: "build the Dockerfile of this directory" },
  ],
  async run({ name, tag, file, buildArg, target }, context) {
    if (tag !== undefined) {
      const { buildDockerfile } = await import("./build-dockerfile.ts");
      return await buildDockerfile({ tag, contextDirectory: name ?? ".", file, buildArgs: buildArg, target }, context);
    }
    if (file !== undefined || target !== undefined || Object.keys(buildArg).length > 0) {
      throw usageError("a Dockerfile needs --tag, the name of its image", ["image", "build"]);
    }
    return await buildRecipe(name ?? "default", context);
  },
});

async function buildRecipe(name: string, { host, print, progress, signal }: Context): Promise<void> {
  using shown = progress();
  shown.report(`building image ${name}`);
  const { buildImage, readConfig } = await import("@opensandbox/server");
  const built = await buildImage(readConfig(host.env), name, (step) => shown.reportStep(step), signal);
  shown.pause();
  await print(`built image ${name}: ${megabytes(built.bytes)} on disk`, built);
}
