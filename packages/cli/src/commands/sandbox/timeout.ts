import { defineCommand } from "../../command.ts";
import { one, wholeArgument } from "#arguments/inputs.ts";

export const timeout = defineCommand({
  summary: "Set how long a sandbox may be idle",
  description: "Idle seconds after which it is hibernated, counted anew from now and after every use. 0: never.",
  arguments: { id: one("SANDBOX"), seconds: wholeArgument("SECONDS") },
  examples: [
    { line: "timeout sb-1a2b3c4d 600", shows: "ten minutes" },
    { line: "timeout sb-1a2b3c4d 0", shows: "it runs on, used or not" },
  ],
  async run({ id, seconds }, { client, print, signal }) {
    const { sandboxes } = await client();
    await sandboxes.setTimeout(id, seconds, signal);
    const human = seconds === 0 ? `${id} may be idle for ever` : `${id} may be idle for ${seconds} s`;
    await print(human, { id, idleTimeoutSeconds: seconds });
  },
});
