import { flag, whole } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import { checkName, targetOptions } from "./azure-options.ts";
import { openSsh } from "./ssh.ts";

export const logs = defineCommand({
  summary: "Show the log of the server on a host on Azure",
  options: {
    ...targetOptions,
    lines: whole("COUNT", "the number of lines (default: 100)"),
    follow: flag("follow new lines until Ctrl-C", "f"),
  },
  examples: [{ line: "azure logs --follow", shows: "show the last lines and follow" }],
  check: ({ name }) => checkName(name),
  async run({ lines = 100, follow, ...input }, context) {
    const { findHost } = await import("./find-host.ts");
    const { remote, unit } = await findHost(input, context);
    const journal = `sudo journalctl --unit ${unit} --no-pager --lines ${lines}${follow ? " --follow" : ""}`;
    return await openSsh(remote, [], [journal], context);
  },
});
