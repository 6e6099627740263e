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

// A command that wants to tidy up has this long after Ctrl-C; with the removal after it three seconds are enough.
const graceMs = 2000;
// A caller that is killed cannot delete its sandbox; one without a command is idle.
const abandonedSeconds = 60;
// Of a server that does not answer any more.
const deleteTimeoutMs = 30_000;

export const run = defineCommand({
  summary: "Run a command in a new sandbox, then delete the sandbox",
  description: `The command's input, output and exit code are passed through. A word that stands alone is a line for the
shell. Uses the server that runs here or was configured; without one, a server of its own for the time of the command.

Exits with the command's code: 128+N when signal N ended it, 127 when there is no such command, 124 when its time was
over; 1 when the sandbox could not be made. Ctrl-C is passed on to the command; a second one ends it at once.`,
  arguments: { command: command("CMD") },
  options: {
    ...sandboxOptions,
    ...execOptions,
    keep: flag("do not delete the sandbox, and print its id on standard error"),
  },
  examples: [
    { line: "run -- uname -a", shows: "one command in a new machine" },
    {
      line: "run -- sh -c 'apt-get --version | head -1; exit 3'",
      shows: "a shell line, whose exit code becomes that of osb",
    },
    { line: "cat data.csv | osb run -- wc -l", shows: "pipes work in both directions" },
    {
      line: "run --image minimal --memory 512 --cpus 2 -e NAME=value -- env",
      shows: "choose image, size and environment",
    },
    { line: "run --timeout 10 --user root -- sleep 60", shows: "with a time limit, as root" },
  ],
  async run({ command, keep, ...asked }, context) {
    using progress = context.progress();
    await using server = await openServer(context, progress);
    if (keep && server.embedded) {
      throw usageError(`--keep needs a server that stays: start one with '${context.host.program} up'`, ["run"]);
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

/** A sandbox that is deleted when it is disposed, unless it is to be kept. */
async function newSandbox(
  client: Client,
  { request, keep }: { readonly request: CreateSandbox; readonly keep: boolean },
  progress: Progress,
  { signal, note }: Context,
): Promise<AsyncDisposable & { readonly id: string }> {
  progress.report("starting the machine");
  const { id } = await client.sandboxes.create(request, { onProgress: (step) => progress.report(step) }, signal);
  if (keep) note(`the sandbox is ${id}`);
  return {
    id,
    async [Symbol.asyncDispose]() {
      if (!keep) await client.sandboxes.kill(id, AbortSignal.timeout(deleteTimeoutMs));
    },
  };
}
