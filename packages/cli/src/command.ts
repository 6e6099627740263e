import type { Argument, Option } from "./arguments/option.ts";
import type { Context } from "./context.ts";

export interface Example {
  readonly line: string;
  readonly shows: string;
}

type Inputs<Parts> = {
  readonly [Name in keyof Parts]: Parts[Name] extends { read(...of: never): infer V } ? V : never;
};

interface Definition<Arguments, Options> {
  /** Starts with a verb and has no full stop. */
  readonly summary: string;
  /** Paragraphs for the command's own help. */
  readonly description?: string;
  /** The arguments by name, in their order on the command line. */
  readonly arguments?: Arguments;
  /** The options by name in camel case: `apiUrl` is `--api-url`. */
  readonly options?: Options;
  /** Example command lines without the program's name. */
  readonly examples: readonly Example[];
  /** Checks the combination of inputs. Returns a message about a mistake, or undefined. */
  check?(input: Inputs<Arguments> & Inputs<Options>): string | undefined;
  /** Runs the command. Returns its exit code; undefined means 0. */
  run(input: Inputs<Arguments> & Inputs<Options>, context: Context): Promise<number | void>;
}

/** A command as data. Parser, help and completion read the same value. */
export interface Command {
  readonly kind: "command";
  readonly summary: string;
  readonly description?: string;
  readonly arguments: Readonly<Record<string, Argument>>;
  readonly options: Readonly<Record<string, Option>>;
  readonly examples: readonly Example[];
  check?(input: Readonly<Record<string, unknown>>): string | undefined;
  run(input: Readonly<Record<string, unknown>>, context: Context): Promise<number | void>;
}

/** A noun with its verbs, such as `checkpoint` with `create` and `ls`. */
export interface Group {
  readonly kind: "group";
  readonly summary: string;
  readonly commands: Commands;
  /** Runs when no verb is given. Absent: the noun alone shows its help. */
  readonly alone?: Command;
}

/** Commands by name, in the order of help. */
export interface Commands {
  readonly [word: string]: Command | Group;
}

export function defineCommand<
  const Arguments extends Readonly<Record<string, Argument>>,
  const Options extends Readonly<Record<string, Option>>,
>(definition: Definition<Arguments, Options>): Command {
  return { kind: "command", arguments: {}, options: {}, ...definition };
}

export function defineGroup(definition: Omit<Group, "kind">): Group {
  return { kind: "group", ...definition };
}
