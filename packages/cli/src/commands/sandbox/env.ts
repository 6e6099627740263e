import { defineCommand } from "../../command.ts";
import { list, one, pairs } from "#arguments/inputs.ts";

export const env = defineCommand({
  summary: "Change a sandbox's environment variables",
  description: `Commands that start from now on have them; those that run keep theirs. A hibernated sandbox has them from its next wake.
Prints the names of all variables, without their values.`,
  arguments: { id: one("SANDBOX") },
  options: {
    env: pairs("set a variable", "e"),
    unset: list("names of variables to remove"),
  },
  examples: [
    { line: "env -e LOG_LEVEL=debug sb-1a2b3c4d", shows: "set a variable" },
    { line: "env --unset LOG_LEVEL,TZ sb-1a2b3c4d", shows: "remove two" },
  ],
  async run({ id, env: set, unset = [] }, { client, print, signal }) {
    const { sandboxes } = await client();
    const removed = Object.fromEntries(unset.map((name) => [name, null]));
    const names = await sandboxes.changeEnvironment(id, { ...removed, ...set }, signal);
    await print(names.join("\n"), { id, names });
  },
});
