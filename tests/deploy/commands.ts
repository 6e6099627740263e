import { commands } from "../../packages/cli/src/commands/commands.ts";

/** The command lines of a text that begin with `osb` and name no command of the command line. */
export function unknownCommands(text: string): readonly string[] {
  const lines = text.match(/\bosb(?: [a-z][a-z-]*)+/g) ?? [];
  return lines.filter((line) => {
    const [noun = "", verb = ""] = line.split(" ").slice(1);
    const found = commands[noun];
    return found === undefined || (found.kind === "group" && verb !== "" && found.commands[verb] === undefined);
  });
}
