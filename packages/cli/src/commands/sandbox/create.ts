import { defineCommand } from "../../command.ts";
import { flag, pairs, text, whole } from "#arguments/inputs.ts";
import { newSandboxOf, printNew, reachOf, reachOptions, sandboxOptions } from "./sandbox-options.ts";

export const create = defineCommand({
  summary: "Create a sandbox and print its id",
  description: "Returns when a command would work in it.",
  options: {
    ...sandboxOptions,
    snapshot: text("NAME", "an image that was built by steps, instead of --image"),
    metadata: pairs("a label of yours"),
    timeout: whole("SECONDS", "hibernate it when idle for so long; 0: never (default: the server's)"),
    ephemeral: flag("delete it where it would be hibernated"),
    alias: text("NAME", "a name of yours"),
    ...reachOptions,
  },
  examples: [
    { line: "create", shows: "the default image and size" },
    {
      line: "create --image minimal --memory 2048 --cpus 2 --timeout 600",
      shows: "choose them, and put it away when idle",
    },
    {
      line: "create -e TOKEN=secret --metadata owner=alice --alias build-17",
      shows: "with environment, labels and a name",
    },
    {
      line: "create --allow pypi.org,files.pythonhosted.org --port 8080 --preview-token auto",
      shows: "say what it reaches",
    },
    { line: "id=$(osb create) && osb exec $id -- uname -a && osb kill $id", shows: "use it in a script" },
  ],
  check: ({ image, snapshot }) =>
    image === undefined || snapshot === undefined ? undefined : "--image and --snapshot are both what to start from",
  async run({ snapshot, metadata, timeout, ephemeral, alias, ...asked }, context) {
    const { sandboxes } = await context.client();
    const request = {
      ...newSandboxOf(asked),
      ...reachOf(asked),
      metadata,
      ...(snapshot === undefined ? {} : { snapshot }),
      ...(timeout === undefined ? {} : { idleTimeoutSeconds: timeout }),
      ...(ephemeral ? { ephemeral } : {}),
      ...(alias === undefined ? {} : { alias }),
    };
    using shown = context.progress();
    shown.report("starting the machine");
    const sandbox = await sandboxes.create(request, { onProgress: (step) => shown.report(step) }, context.signal);
    shown.pause();
    await printNew(sandbox, asked, context);
  },
});
