import { closest } from "./closest.ts";
import type { Command, Commands, Group } from "../command.ts";
import { globalOptions } from "./global-options.ts";
import { optionName } from "./option.ts";
import { usageError } from "./usage-error.ts";

export interface FoundCommand {
  /** The words that name the command. Empty for the program itself. */
  readonly path: readonly string[];
  /** Undefined when no command is named. */
  readonly found: Command | Group | undefined;
  /** The command's own words, preceded by the options before its name. */
  readonly rest: readonly string[];
}

/** Follows the words of `argv` as far as they name commands. @throws a usage error for an unknown command */
export function findCommand(commands: Commands, argv: readonly string[]): FoundCommand {
  if (argv[0] === "--version") return findCommand(commands, ["version", ...argv.slice(1)]);
  const { before, after } = splitGlobals(argv);
  const [word] = after;
  if (word === undefined) return { path: [], found: undefined, rest: before };
  const path: string[] = [];
  let words = commands;
  for (const [index, next] of after.entries()) {
    const found = Object.hasOwn(words, next) ? words[next] : undefined;
    const rest = [...before, ...after.slice(index + 1)];
    if (found === undefined)
      throw usageError(`unknown command "${[...path, next].join(" ")}"${closest(next, Object.keys(words))}`, path);
    path.push(next);
    if (found.kind === "command") return { path, found, rest };
    const following = after[index + 1];
    if (following === undefined || following.startsWith("-")) return { path, found, rest };
    words = found.commands;
  }
  throw new Error("unreachable: the last word is either a command or a group");
}

/** Splits global options from the first word and everything after it. */
function splitGlobals(argv: readonly string[]): {
  readonly before: readonly string[];
  readonly after: readonly string[];
} {
  const known = new Map(Object.entries(globalOptions).map(([key, option]) => [`--${optionName(key)}`, option]));
  let at = 0;
  for (let word = argv[at]; word?.startsWith("-") === true; word = argv[at]) {
    const [name = ""] = word.split("=");
    const option = word === "-h" ? globalOptions.help : known.get(name);
    if (option === undefined) throw usageError(`unknown option ${word}${closest(word, [...known.keys()])}`, []);
    at += option.placeholder === undefined || word.includes("=") ? 1 : 2;
  }
  return { before: argv.slice(0, at), after: argv.slice(at) };
}
