import type { Client, CreateSandbox } from "@opensandbox/sdk";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { command, flag } from "#arguments/inputs.ts";
import type { Progress } from "#output/progress.ts";
import { openServer } from "#server/open-server.ts";
import { usageError } from "#arguments/usage-error.ts";
import { execOptions, execRequestOf } from "./exec-options.ts";
import { newSandboxOf, sandboxOptions } from "#commands/sandbox/sandbox-options.ts";
import { streamOrCollect } from "./stream-or-collect.ts";

// After Ctrl-C the command has this long to clean up, so that osb ends within three seconds.
const graceMs = 2000;
// A killed osb cannot delete its sandbox. The idle timeout does.
const abandonedSeconds = 60;
// Bounds the clean-up when the server does not answer.
const deleteTimeoutMs = 30_000;

export const run = defineCommand({
  summary: "Run a command in a new sandbox, then delete the sandbox",
  description: `Passes the command's input, output and exit code through. A single argument is a command line for the shell. Uses the
configured server or the one that runs on this host. Without one, starts a server for the duration of the command.

Exits with the command's code, with 128+N if signal N ended it, 127 if there is no such command, 124 after a timeout, and
1 if the sandbox cannot be created. Ctrl-C goes to the command; a second Ctrl-C kills it.`,
  arguments: { command: command("CMD") },
  options: {
    ...sandboxOptions,
    ...execOptions,
    keep: flag("keep the sandbox, and print its id to standard error"),
  },
  examples: [
    { line: "run -- uname -a", shows: "run one command in a new sandbox" },
    {
      line: "run -- sh -c 'apt-get --version | head -1; exit 3'",
      shows: "run a shell command line; osb exits with its code",
    },
    { line: "cat data.csv | osb run -- wc -l", shows: "use pipes in both directions" },
    {
      line: "run --image minimal --memory 512 --cpus 2 -e NAME=value -- env",
      shows: "choose image, size and environment",
    },
    { line: "run --timeout 10 --user root -- sleep 60", shows: "run as root, with a time limit" },
  ],
  async run({ command, keep, ...asked }, context) {
    using progress = context.progress();
    await using server = await openServer(context, progress);
    if (keep && server.embedded) {
      throw usageError(`--keep needs a running server: start one with '${context.host.program} up'`, ["run"]);
    }
    const request = { ...newSandboxOf(asked), idleTimeoutSeconds: keep ? 0 : abandonedSeconds, ephemeral: !keep };
    await using sandbox = await newSandbox(server.client, { request, keep }, progress, context);
    progress.pause();
    const exec = execRequestOf({ command, ...asked });
    const { noStdin } = asked;
    return await streamOrCollect(
      { client: server.client, sandboxId: sandbox.id, request: exec, noStdin, graceMs },
      context,
    );
  },
});

/** Creates a sandbox. Disposing it deletes the sandbox, unless `keep` is set. */
async function newSandbox(
  client: Client,
  { request, keep }: { readonly request: CreateSandbox; readonly keep: boolean },
  progress: Progress,
  { signal, note }: Context,
): Promise<AsyncDisposable & { readonly id: string }> {
  progress.report("starting the sandbox");
  const { id } = await client.sandboxes.create(request, { onProgress: (step) => progress.report(step) }, signal);
  if (keep) note(`the sandbox is ${id}`);
  return {
    id,
    async [Symbol.asyncDispose]() {
      if (!keep) await client.sandboxes.kill(id, AbortSignal.timeout(deleteTimeoutMs));
    },
  };
}
