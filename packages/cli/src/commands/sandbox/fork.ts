import { defineCommand } from "../../command.ts";
import { one, pairs, text, whole } from "#arguments/inputs.ts";
import { printNew, reachOf, reachOptions } from "./sandbox-options.ts";

export const fork = defineCommand({
  summary: "Create a sandbox from a checkpoint, alive, and print its id",
  description: "Its processes go on where the checkpoint was made.",
  arguments: { checkpoint: one("CHECKPOINT") },
  options: {
    alias: text("NAME", "a name of yours"),
    env: pairs("environment variable, over those of the checkpoint", "e"),
    metadata: pairs("label, over those of the checkpoint"),
    timeout: whole("SECONDS", "idle seconds until it is hibernated; 0: never"),
    memory: whole("MB", "memory; with another size than the checkpoint's it boots"),
    ...reachOptions,
  },
  examples: [
    { line: "fork 5f0d3e5d-0667-43b1-a989-ffccae31a58c", shows: "one more of it" },
    { line: "fork -e SEED=7 5f0d3e5d-0667-43b1-a989-ffccae31a58c", shows: "one that differs" },
    { line: "fork --no-network 5f0d3e5d-0667-43b1-a989-ffccae31a58c", shows: "one that reaches nothing" },
  ],
  async run({ checkpoint, alias, env, metadata, timeout, memory, ...asked }, context) {
    using shown = context.progress();
    shown.report("forking the checkpoint");
    const { checkpoints } = await context.client();
    const request = {
      envs: env,
      metadata,
      ...reachOf(asked),
      ...(alias === undefined ? {} : { alias }),
      ...(timeout === undefined ? {} : { idleTimeoutSeconds: timeout }),
      ...(memory === undefined ? {} : { memoryMib: memory }),
    };
    const sandbox = await checkpoints.fork(checkpoint, request, context.signal);
    shown.pause();
    if (sandbox.restoredFrom === "disk") {
      context.note(`its disks were booted: ${sandbox.restoredBecause ?? "no memory"}`);
    }
    await printNew(sandbox, asked, context);
  },
});
