import type { Argument } from "#arguments/option.ts";
import { flag } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import type { Context } from "../../context.ts";
import { checkName, targetOptions } from "./azure-options.ts";
import { runSsh } from "#commands/ssh/run-ssh.ts";
import type { Remote } from "./install/remote.ts";

/** The command on the host; none for a shell. */
const words: Argument<readonly string[]> = { placeholder: "[CMD...]", takes: "at most one", read: (values) => values };

export const ssh = defineCommand({
  summary: "Open a shell on a host on Azure, or run a command there",
  description: `Uses the program ssh. CMD is one argument: a command line of the host's shell.`,
  arguments: { command: words },
  options: {
    ...targetOptions,
    tunnel: flag("forward port 8080 of this host to the server instead, until Ctrl-C"),
  },
  examples: [
    { line: "azure ssh", shows: "open a shell" },
    { line: "osb azure ssh 'sudo osb ls'", shows: "list the sandboxes" },
    { line: "azure ssh --tunnel", shows: "make the server reachable at http://localhost:8080" },
  ],
  check: ({ name, tunnel, command }) => (tunnel && command.length > 0 ? "--tunnel takes no command" : checkName(name)),
  async run({ command, tunnel, ...input }, context) {
    const { findHost } = await import("./find-host.ts");
    const { remote } = await findHost(input, context);
    if (tunnel) context.note("the server is at http://localhost:8080 until Ctrl-C");
    const further = tunnel ? ["-N", "-L", "8080:127.0.0.1:8080", "-o", "ExitOnForwardFailure=yes"] : [];
    return await openSsh(remote, further, command, context);
  },
});

/** Connects this terminal to ssh, and returns its exit code. */
export async function openSsh(
  { env, ...remote }: Remote,
  further: readonly string[],
  command: readonly string[],
  { host }: Pick<Context, "host">,
): Promise<number> {
  const { sshArguments } = await import("./install/remote.ts");
  return await runSsh([...sshArguments(remote, further), ...command], env, host);
}
