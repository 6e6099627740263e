import { defineCommand } from "../../command.ts";
import { flag, one, whole } from "#arguments/inputs.ts";

export const autoscale = defineCommand({
  summary: "Let the load of a sandbox set its memory",
  description: `A running sandbox gets half as much memory again when its commands use 85 % of it or wait for memory, and gives memory
back when they have used less than 40 % for five minutes. 'scale' sets a size and ends it.`,
  arguments: { id: one("SANDBOX") },
  options: {
    min: whole("MB", "the least memory, a multiple of 128 (default: what it has)"),
    max: whole("MB", "the most memory, a multiple of 128 (default: what it has)"),
    off: flag("keep the present size"),
  },
  examples: [
    { line: "autoscale --min 512 --max 4096 sb-1a2b3c4d", shows: "between 512 MiB and 4 GiB" },
    { line: "autoscale --off sb-1a2b3c4d", shows: "keep the present size" },
  ],
  async run({ id, min, max, off }, { client, print, signal }) {
    const { sandboxes } = await client();
    const range = {
      ...(min === undefined ? {} : { minMemoryMib: min }),
      ...(max === undefined ? {} : { maxMemoryMib: max }),
    };
    await sandboxes.setAutoscale(id, off ? "off" : range, signal);
    await print(off ? `${id} keeps its size` : `the load of ${id} sets its memory`, { id, enabled: !off, ...range });
  },
});
