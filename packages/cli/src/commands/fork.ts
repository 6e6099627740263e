import { defineCommand } from "../command.ts";
import { one, pairs, text, whole } from "../inputs.ts";

export const fork = defineCommand({
  summary: "Create a sandbox from a checkpoint, alive, and print its id",
  description: "Its processes go on where the checkpoint was made.",
  arguments: { checkpoint: one("CHECKPOINT") },
  options: {
    alias: text("NAME", "a name of yours"),
    env: pairs("environment variable, over those of the checkpoint", "e"),
    metadata: pairs("label, over those of the checkpoint"),
    timeout: whole("SECONDS", "idle seconds until it is hibernated; 0: never"),
  },
  examples: [
    { line: "fork 5f0d3e5d-0667-43b1-a989-ffccae31a58c", shows: "one more of it" },
    { line: "fork -e SEED=7 5f0d3e5d-0667-43b1-a989-ffccae31a58c", shows: "one that differs" },
  ],
  async run({ checkpoint, alias, env, metadata, timeout }, { client, print, note, progress, signal }) {
    using shown = progress();
    shown.report("forking the checkpoint");
    const { checkpoints } = await client();
    const request = {
      envs: env,
      metadata,
      ...(alias === undefined ? {} : { alias }),
      ...(timeout === undefined ? {} : { idleTimeoutSeconds: timeout }),
    };
    const sandbox = await checkpoints.fork(checkpoint, request, signal);
    shown.pause();
    if (sandbox.restoredFrom === "disk") note(`its disks were booted: ${sandbox.restoredBecause ?? "no memory"}`);
    await print(sandbox.id, sandbox);
  },
});
