import { parseArgs } from "node:util";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { closest } from "./closest.ts";
import type { Command } from "../command.ts";
import { globalOptions, type Globals } from "./global-options.ts";
import { type Argument, type Option, optionName } from "./option.ts";
import { usageError } from "./usage-error.ts";

export interface ParsedInput {
  readonly globals: Globals;
  readonly input: Readonly<Record<string, unknown>>;
}

/**
 * Parses the words after a command's name. With `--help` among them, missing inputs are not a mistake. @throws a usage
 * error that names the mistake
 */
export function parseInput(command: Command, argv: readonly string[], path: readonly string[]): ParsedInput {
  const known = optionsByName({ ...command.options, ...globalOptions });
  const { given, words } = split(command, known, argv, path);
  const read = (options: Readonly<Record<string, Option>>): Record<string, unknown> =>
    Object.fromEntries(
      Object.entries(options).map(([key, option]) => [
        key,
        option.read(given.get(optionName(key)) ?? [], `--${optionName(key)}`),
      ]),
    );
  return asUsage(path, () => {
    const globals = read(globalOptions) as unknown as Globals;
    if (globals.help) return { globals, input: {} };
    const input = { ...readArguments(command.arguments, words, path), ...read(command.options) };
    const wrong = command.check?.(input);
    if (wrong !== undefined) throw usageError(wrong, path);
    return { globals, input };
  });
}

/** Whether `--json` is among the options. Works on input that cannot be parsed, to report the mistake as JSON. */
export function asksForJson(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  return argv.slice(0, end === -1 ? argv.length : end).includes("--json");
}

interface Split {
  /** The values of each option, in order. Those of a flag are empty. */
  readonly given: ReadonlyMap<string, readonly string[]>;
  readonly words: readonly string[];
}

function split(
  command: Command,
  known: ReadonlyMap<string, Option>,
  argv: readonly string[],
  path: readonly string[],
): Split {
  const { tokens } = parseArgs({
    args: [...argv],
    strict: false,
    tokens: true,
    options: Object.fromEntries(
      [...known].map(([name, { placeholder, short }]) => [
        name,
        {
          type: placeholder === undefined ? "boolean" : "string",
          multiple: true,
          ...(short === undefined ? {} : { short }),
        },
      ]),
    ),
  });
  const wordsBeforeCommand = wordsBefore(command.arguments);
  const given = new Map<string, string[]>();
  const words: string[] = [];
  for (const token of tokens) {
    if (token.kind === "option-terminator") return { given, words: [...words, ...argv.slice(token.index + 1)] };
    if (token.kind === "positional") {
      // Every further word belongs to the command, even if it looks like an option.
      if (words.length === wordsBeforeCommand) return { given, words: [...words, ...argv.slice(token.index)] };
      words.push(token.value);
      continue;
    }
    const option = known.get(token.name);
    if (option === undefined) {
      const names = [...known.keys()].map((name) => `--${name}`);
      throw usageError(`unknown option ${token.rawName}${closest(token.rawName, names)}`, path);
    }
    const values = given.get(token.name) ?? [];
    given.set(token.name, [...values, valueOf(option, token, path)]);
  }
  return { given, words };
}

/** The number of words before a `command` argument; infinite without one. */
function wordsBefore(args: Readonly<Record<string, Argument>>): number {
  const at = Object.values(args).findIndex(({ takes }) => takes === "command");
  return at === -1 ? Number.POSITIVE_INFINITY : at;
}

function valueOf(
  { placeholder }: Option,
  token: { readonly rawName: string; readonly value: string | undefined; readonly inlineValue: boolean | undefined },
  path: readonly string[],
): string {
  const { rawName, value, inlineValue } = token;
  if (placeholder === undefined) {
    if (value !== undefined) throw usageError(`${rawName} takes no value`, path);
    return "";
  }
  if (value === undefined) throw usageError(`${rawName} needs a value: ${rawName} ${placeholder}`, path);
  // Usually the value is missing and this word is the next option.
  if (inlineValue !== true && value.startsWith("-") && value !== "-") {
    throw usageError(
      `${rawName} needs a value: ${rawName} ${placeholder}, or ${rawName}=${value} if ${value} is the value`,
      path,
    );
  }
  return value;
}

function readArguments(
  args: Readonly<Record<string, Argument>>,
  words: readonly string[],
  path: readonly string[],
): Record<string, unknown> {
  const input: Record<string, unknown> = {};
  let at = 0;
  for (const [index, [key, argument]] of Object.entries(args).entries()) {
    const single = argument.takes === "one" || argument.takes === "at most one";
    // Each later argument needs at least one word.
    const max = single ? 1 : words.length - at - (Object.keys(args).length - index - 1);
    const values = words.slice(at, at + max);
    if (values.length === 0 && argument.takes !== "at most one")
      throw usageError(`missing ${argument.placeholder}`, path);
    input[key] = argument.read(values);
    at += values.length;
  }
  if (at < words.length) throw usageError(`unexpected argument "${words[at]}"`, path);
  return input;
}

function optionsByName(options: Readonly<Record<string, Option>>): ReadonlyMap<string, Option> {
  return new Map(Object.entries(options).map(([key, option]) => [optionName(key), option]));
}

/** Turns a refused value into a usage error. */
function asUsage<Result>(path: readonly string[], action: () => Result): Result {
  try {
    return action();
  } catch (error) {
    if (isSandboxError(error, "invalid_argument")) throw usageError(error.message, path);
    throw error;
  }
}
