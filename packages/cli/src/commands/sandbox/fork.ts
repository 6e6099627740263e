import { defineCommand } from "../../command.ts";
import { one, pairs, text, whole } from "#arguments/inputs.ts";
import { printNew, networkOf, networkOptions } from "./sandbox-options.ts";

export const fork = defineCommand({
  summary: "Create a sandbox from a checkpoint and print its id",
  description: "The new sandbox's processes continue from the checkpoint. A disk-only checkpoint boots instead.",
  arguments: { checkpoint: one("CHECKPOINT") },
  options: {
    alias: text("NAME", "a name of your choice"),
    env: pairs("an environment variable, besides the checkpoint's", "e"),
    metadata: pairs("a label, besides the checkpoint's"),
    timeout: whole("SECONDS", "hibernate the sandbox when idle this long; 0: never"),
    memory: whole("MB", "memory; a size other than the checkpoint's boots the sandbox"),
    ...networkOptions,
  },
  examples: [
    { line: "fork 5f0d3e5d-0667-43b1-a989-ffccae31a58c", shows: "create a copy" },
    {
      line: "fork -e SEED=7 5f0d3e5d-0667-43b1-a989-ffccae31a58c",
      shows: "create a copy with another environment variable",
    },
    { line: "fork --no-network 5f0d3e5d-0667-43b1-a989-ffccae31a58c", shows: "create a copy without network" },
  ],
  async run({ checkpoint, alias, env, metadata, timeout, memory, ...asked }, context) {
    using shown = context.progress();
    shown.report("forking the checkpoint");
    const { checkpoints } = await context.client();
    const request = {
      envs: env,
      metadata,
      ...networkOf(asked),
      ...(alias === undefined ? {} : { alias }),
      ...(timeout === undefined ? {} : { idleTimeoutSeconds: timeout }),
      ...(memory === undefined ? {} : { memoryMib: memory }),
    };
    const sandbox = await checkpoints.fork(checkpoint, request, context.signal);
    shown.pause();
    if (sandbox.restoredFrom === "disk") {
      context.note(
        `the sandbox was booted from its disks: ${sandbox.restoredBecause ?? "the checkpoint has no memory"}`,
      );
    }
    await printNew(sandbox, asked, context);
  },
});
