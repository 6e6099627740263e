import { defineCommand } from "../command.ts";
import { optional } from "#arguments/inputs.ts";

export const help = defineCommand({
  summary: "Show help for a command",
  arguments: { command: optional("COMMAND"), verb: optional("VERB") },
  examples: [
    { line: "help run", shows: "the same as osb run --help" },
    { line: "help image build", shows: "help for a verb" },
  ],
  async run({ command, verb }, { help, print }) {
    const text = help([command, verb].filter((word) => word !== undefined));
    await print(text, { help: text });
  },
});
