import type { Command, Commands, Example, Group } from "./command.ts";
import { globalOptions } from "./arguments/global-options.ts";
import { type Argument, type Option, optionName } from "./arguments/option.ts";
import { columns } from "./output/table.ts";

/** The help text of the command that `path` names. An empty path names the program. */
export function help(commands: Commands, path: readonly string[], program: string): string {
  const found = lookUp(commands, path);
  if (found === undefined) return programHelp(commands, program);
  return found.kind === "group" ? groupHelp(found, [program, ...path].join(" ")) : commandHelp(found, program, path);
}

/** The command's usage, in one line. */
export function usage(commands: Commands, path: readonly string[], program: string): string {
  const found = lookUp(commands, path);
  const words = [program, ...path].join(" ");
  if (found === undefined) return `${words} COMMAND [options]`;
  if (found.kind === "group") return `${words} ${Object.keys(found.commands).join("|")} [options]`;
  return [words, "[options]", ...Object.values(found.arguments).map(argumentUsage)].join(" ");
}

function lookUp(commands: Commands, path: readonly string[]): Command | Group | undefined {
  const [word, ...rest] = path;
  if (word === undefined) return undefined;
  const found = commands[word];
  return found?.kind === "group" && rest.length > 0 ? lookUp(found.commands, rest) : found;
}

function programHelp(commands: Commands, program: string): string {
  return sections(
    `OpenSandbox: a real Linux machine for every AI agent, on your own hosts.`,
    `Usage: ${program} COMMAND [options]`,
    `Commands:\n${indented(columns(commandRows(commands)))}`,
    `Options of every command:\n${optionRows(globalOptions)}`,
    examplesOf(
      [
        { line: "run -- uname -a", shows: "run one command in a new sandbox, then delete the sandbox" },
        { line: "up", shows: "start a server, which keeps sandboxes" },
        { line: "create", shows: "in another terminal: create a sandbox and print its id" },
        { line: "exec sb-1a2b3c4d -- python3 -V", shows: "run a command in the sandbox" },
      ],
      program,
    ),
    `Run '${program} COMMAND --help' for more about a command.`,
  );
}

function groupHelp({ summary, commands, alone }: Group, words: string): string {
  const others = Object.values(commands).filter((entry) => entry !== alone);
  return sections(
    `${summary}.`,
    `Usage: ${words} ${alone === undefined ? "COMMAND" : "[COMMAND]"} [options]`,
    `Commands:\n${indented(columns(commandRows(commands)))}`,
    ...(alone === undefined ? [] : aloneHelp(alone)),
    examplesOf([...(alone?.examples ?? []), ...others.flatMap(firstExample)], words.split(" ")[0] ?? ""),
    `Run '${words} COMMAND --help' for more about a command.`,
  );
}

function aloneHelp({ summary, description, options }: Command): readonly (string | undefined)[] {
  return [
    `Without COMMAND: ${lowerFirst(summary)}.`,
    description === undefined ? undefined : wrapped(description),
    Object.keys(options).length === 0 ? undefined : `Options without COMMAND:\n${optionRows(options)}`,
  ];
}

function commandHelp(command: Command, program: string, path: readonly string[]): string {
  const words = [program, ...path, "[options]", ...Object.values(command.arguments).map(argumentUsage)];
  return sections(
    `${command.summary}.`,
    `Usage: ${words.join(" ")}`,
    command.description === undefined ? undefined : wrapped(command.description),
    Object.keys(command.options).length === 0 ? undefined : `Options:\n${optionRows(command.options)}`,
    `Options of every command:\n${optionRows(globalOptions)}`,
    examplesOf(command.examples, program),
  );
}

function argumentUsage({ placeholder, takes }: Argument): string {
  switch (takes) {
    case "one":
      return placeholder;
    case "at most one":
      return `[${placeholder}]`;
    case "some":
      return `${placeholder}...`;
    case "command":
      return `[--] ${placeholder} [ARG...]`;
  }
}

function commandRows(commands: Commands): string[][] {
  return Object.entries(commands).map(([word, { summary }]) => [word, summary]);
}

function optionRows(options: Readonly<Record<string, Option>>): string {
  const rows = Object.entries(options).map(([key, { help, placeholder, short }]) => {
    const name = `${short === undefined ? "" : `-${short}, `}--${optionName(key)}`;
    return [placeholder === undefined ? name : `${name} ${placeholder}`, help];
  });
  return indented(columns(rows));
}

function firstExample(entry: Command | Group): readonly Example[] {
  return entry.kind === "command" ? entry.examples.slice(0, 1) : [];
}

function examplesOf(examples: readonly Example[], program: string): string | undefined {
  if (examples.length === 0) return undefined;
  return `Examples:\n${examples.map(({ line, shows }) => `  # ${shows}\n  ${exampleLine(line, program)}`).join("\n")}`;
}

/** Replaces `osb` by the program's name. A line without `osb` gets the name in front. */
function exampleLine(line: string, program: string): string {
  return /\bosb\b/.test(line) ? line.replaceAll(/\bosb\b/g, program) : `${program} ${line}`;
}

/** Rewraps paragraphs: line breaks of the source within a paragraph have no meaning. */
function wrapped(text: string): string {
  return text.split("\n\n").map(wrappedParagraph).join("\n\n");
}

const lineWidth = 90;

function wrappedParagraph(text: string): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/)) {
    if (line !== "" && line.length + 1 + word.length > lineWidth) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line].join("\n");
}

function indented(lines: string): string {
  return lines.replaceAll(/^/gm, "  ");
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

function sections(...parts: readonly (string | undefined)[]): string {
  return parts.filter((part) => part !== undefined).join("\n\n");
}
