import { asSandboxError, withMessage } from "@opensandbox/wire/errors.ts";
import { defineCommand } from "../../command.ts";
import { some } from "#arguments/inputs.ts";

export const kill = defineCommand({
  summary: "Stop sandboxes and delete their data",
  description:
    "A sandbox that is already stopped is not an error. When one cannot be killed, the others still are. Checkpoints stay.",
  arguments: { ids: some("SANDBOX") },
  examples: [
    { line: "kill sb-1a2b3c4d", shows: "kill one sandbox" },
    { line: "osb kill $(osb ls --json | jq -r '.[].id')", shows: "kill every listed sandbox" },
  ],
  async run({ ids }, { client, print, signal }) {
    const { sandboxes } = await client();
    const ends = await Promise.allSettled(ids.map((id) => sandboxes.kill(id, signal)));
    const killed = ids.filter((_, index) => ends[index]?.status === "fulfilled");
    await print(killed.map((id) => `killed ${id}`).join("\n"), { killed });
    const failures = ids.flatMap((id, index) => {
      const end = ends[index];
      return end?.status === "rejected" ? [{ id, error: asSandboxError(end.reason) }] : [];
    });
    const [first] = failures;
    if (first === undefined) return;
    const message = failures.map(({ id, error }) => `${id}: ${error.message}`).join("; ");
    throw withMessage(first.error, message);
  },
});
