import { defineCommand } from "../../command.ts";
import { choice, flag, pairs, text, whole } from "#arguments/inputs.ts";
import { newSandboxOf, printNew, networkOf, networkOptions, sandboxOptions } from "./sandbox-options.ts";

export const create = defineCommand({
  summary: "Create a sandbox and print its id",
  description: "Returns when commands can run in the sandbox.",
  options: {
    ...sandboxOptions,
    snapshot: text("NAME", "an image of your own, built by 'snapshot create', instead of --image"),
    metadata: pairs("a label of your choice"),
    timeout: whole("SECONDS", "hibernate when idle this long; 0: never (default: the server's)"),
    ephemeral: flag("delete the sandbox instead of hibernating it"),
    onTimeout: choice("what the idle timeout does (default: hibernate)", ["hibernate", "kill"]),
    maxLifetime: whole("SECONDS", "delete the sandbox this long after its creation, whatever it does"),
    alias: text("NAME", "a name of your choice"),
    ...networkOptions,
  },
  examples: [
    { line: "create", shows: "use the default image and size" },
    {
      line: "create --image minimal --memory 2048 --cpus 2 --timeout 600",
      shows: "choose image and size, hibernate after ten idle minutes",
    },
    {
      line: "create -e TOKEN=secret --metadata owner=alice --alias build-17",
      shows: "set environment, labels and a name",
    },
    {
      line: "create --allow pypi.org,files.pythonhosted.org --port 8080 --preview-token auto",
      shows: "restrict its network, publish a port, require a preview token",
    },
    {
      line: "id=$(osb create) && osb exec $id -- uname -a && osb kill $id",
      shows: "create, use and delete a sandbox in a script",
    },
  ],
  check: ({ image, snapshot }) =>
    image === undefined || snapshot === undefined ? undefined : "--image and --snapshot exclude each other",
  async run({ snapshot, metadata, timeout, ephemeral, onTimeout, maxLifetime, alias, ...asked }, context) {
    const { sandboxes } = await context.client();
    const request = {
      ...newSandboxOf(asked),
      ...networkOf(asked),
      metadata,
      ...(snapshot === undefined ? {} : { snapshot }),
      ...(timeout === undefined ? {} : { idleTimeoutSeconds: timeout }),
      ...(ephemeral ? { ephemeral } : {}),
      ...(onTimeout === undefined ? {} : { onTimeout }),
      ...(maxLifetime === undefined ? {} : { maxLifetimeSeconds: maxLifetime }),
      ...(alias === undefined ? {} : { alias }),
    };
    using shown = context.progress();
    shown.report("starting the sandbox");
    const sandbox = await sandboxes.create(request, { onProgress: (step) => shown.report(step) }, context.signal);
    shown.pause();
    await printNew(sandbox, asked, context);
  },
});
