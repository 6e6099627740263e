import { defineCommand } from "../../command.ts";
import { one, pairs, text, texts } from "#arguments/inputs.ts";
import { usageError } from "#arguments/usage-error.ts";
import { buildOptions, buildTemplate, recipeOf } from "./build-options.ts";

export const create = defineCommand({
  summary: "Build a template from an image or a template and some commands",
  description: `A template is a machine that is ready under a name. Its commands run in order, as the user --user and with the
variables of --env, which later commands in its sandboxes have too. With --start, a program already runs in every sandbox
of the template: the machine is captured once --ready succeeds. The build's log goes to standard error.`,
  arguments: { name: one("NAME") },
  options: {
    image: text("IMAGE", "the image to start from (default: default)"),
    from: text("TEMPLATE", "the template to start from"),
    run: texts("COMMAND", "a command of the build"),
    env: pairs("set an environment variable", "e"),
    user: text("USER", "the user of the commands (default: the image's)"),
    ...buildOptions,
  },
  examples: [
    {
      line: "template create web --start 'python3 -m http.server' --ready 'nc -z localhost 8000'",
      shows: "build a template with a server that is ready",
    },
    { line: "create --image web", shows: "create a sandbox from the template" },
    { line: "template create web --from web --run 'pip install redis' --tag v2", shows: "build a further version" },
  ],
  async run({ name, image, from, run, env, user, ...given }, context) {
    if (image !== undefined && from !== undefined) {
      throw usageError("give --image or --from, not both", ["template", "create"]);
    }
    const steps = [
      ...(Object.keys(env).length === 0 ? [] : [{ type: "env" as const, args: { vars: env } }]),
      ...(user === undefined ? [] : [{ type: "user" as const, args: { name: user } }]),
      ...run.map((command) => ({ type: "run" as const, args: { commands: [command] } })),
    ];
    const base = { ...(image === undefined ? {} : { image }), ...(from === undefined ? {} : { template: from }) };
    await buildTemplate({ name, recipe: { ...base, steps, ...recipeOf(given) } }, context);
  },
});
