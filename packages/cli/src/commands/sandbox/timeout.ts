import { defineCommand } from "../../command.ts";
import { one, wholeArgument } from "#arguments/inputs.ts";

export const timeout = defineCommand({
  summary: "Set a sandbox's idle timeout",
  description:
    "After this many seconds without activity the sandbox is hibernated. Every use restarts the timeout. 0: never.",
  arguments: { id: one("SANDBOX"), seconds: wholeArgument("SECONDS") },
  examples: [
    { line: "timeout sb-1a2b3c4d 600", shows: "hibernate after ten idle minutes" },
    { line: "timeout sb-1a2b3c4d 0", shows: "never hibernate" },
  ],
  async run({ id, seconds }, { client, print, signal }) {
    const { sandboxes } = await client();
    await sandboxes.setTimeout(id, seconds, signal);
    const human = seconds === 0 ? `${id} has no idle timeout` : `${id} has an idle timeout of ${seconds} s`;
    await print(human, { id, idleTimeoutSeconds: seconds });
  },
});
