import { defineCommand } from "../../command.ts";
import { one, wholeArgument } from "#arguments/inputs.ts";

export const scale = defineCommand({
  summary: "Change a sandbox's memory while it runs",
  description:
    "From 256 MiB to eight times the memory that its machine booted with, in steps of 128 MiB. Processes keep running.",
  arguments: { id: one("SANDBOX"), memoryMib: wholeArgument("MIB") },
  examples: [
    { line: "scale sb-1a2b3c4d 4096", shows: "add memory for a large build" },
    { line: "scale sb-1a2b3c4d 1024", shows: "give it back afterwards" },
  ],
  async run({ id, memoryMib }, { client, print, progress, signal }) {
    using shown = progress();
    shown.report("resizing the sandbox's memory");
    const { sandboxes } = await client();
    await sandboxes.scale(id, memoryMib, signal);
    shown.pause();
    await print(`${id} has ${memoryMib} MiB`, { id, memoryMib });
  },
});
