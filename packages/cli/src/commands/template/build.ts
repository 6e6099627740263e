import { defineCommand } from "../../command.ts";
import { one, optional, pairs, text } from "#arguments/inputs.ts";
import { buildOptions, buildTemplate, recipeOf } from "./build-options.ts";

export const build = defineCommand({
  summary: "Build a template from the Dockerfile of a directory",
  description: `Builds the Dockerfile as 'image build --tag' does, and then a template of its image. The default DIRECTORY is the
current one. The command must run on the server's host. A Dockerfile's command is not started: name it with --start.`,
  arguments: { name: one("NAME"), directory: optional("DIRECTORY") },
  options: {
    file: text("FILE", "the Dockerfile (default: Dockerfile in the directory)", "f"),
    buildArg: pairs("set a build argument"),
    target: text("STAGE", "the stage of the Dockerfile to build"),
    ...buildOptions,
  },
  examples: [{ line: "template build app . --start ./serve", shows: "build a template of an app that runs" }],
  async run({ name, directory, file, buildArg, target, ...given }, context) {
    const { buildDockerfile } = await import("../image/build-dockerfile.ts");
    // A registry of this name cannot exist: RFC 2606 reserves the domain.
    const tag = `template.invalid/${name}:latest`;
    const contextDirectory = directory ?? ".";
    const exitCode = await buildDockerfile({ tag, contextDirectory, file, buildArgs: buildArg, target }, context);
    if (exitCode !== 0) return exitCode;
    await buildTemplate({ name, recipe: { image: tag, ...recipeOf(given) } }, context);
    return 0;
  },
});
