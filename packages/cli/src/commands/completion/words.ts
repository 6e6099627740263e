import type { Client } from "@opensandbox/sdk";
import { type Command, type Commands, defineCommand, type Group } from "../../command.ts";
import { globalOptions } from "#arguments/global-options.ts";
import { type Argument, optionName } from "#arguments/option.ts";

/** A longer wait would make the Tab key seem dead. */
const maxWaitMs = 1500;

export function wordsAmong(commands: () => Commands): Command {
  return defineCommand({
    summary: "Print the completions of a partial command line, one per line (completion scripts call it)",
    arguments: { typed: { placeholder: "WORD", takes: "command", read: (values) => values } },
    examples: [{ line: "completion words -- checkpoint ''", shows: "print the commands of `checkpoint`" }],
    async run({ typed }, { client, print, signal }) {
      const ids = async (kind: Kind): Promise<readonly string[]> => {
        try {
          return await idsOf(kind, await client(), AbortSignal.any([signal, AbortSignal.timeout(maxWaitMs)]));
        } catch {
          // A completion prints no errors: without a reachable server there are no ids to offer.
          return [];
        }
      };
      const found = await candidates(commands(), typed, ids);
      await print(found.join("\n"), found);
    },
  });
}

export type Kind = "sandboxes" | "checkpoints";

const kinds: Readonly<Record<string, Kind>> = {
  SANDBOX: "sandboxes",
  CHECKPOINT: "checkpoints",
};

/** Completions of the last word of `typed`, which may be empty. With none, the shell offers file names. */
export async function candidates(
  commands: Commands,
  typed: readonly string[],
  ids: (kind: Kind) => Promise<readonly string[]>,
): Promise<readonly string[]> {
  const before = typed.slice(0, -1);
  const last = typed.at(-1) ?? "";
  const fits = (found: readonly string[]): readonly string[] => found.filter((word) => word.startsWith(last));
  const { found, rest } = follow(commands, before);
  // Words after `--` belong to another program.
  if (rest.includes("--")) return [];
  if (last.startsWith("-")) return fits(optionsOf(found).map(({ name }) => name));
  if (found === undefined) return fits(Object.keys(commands));
  if (found.kind === "group") return fits(Object.keys(found.commands));
  const kind = kinds[argumentAt(found, rest)?.placeholder ?? ""];
  return kind === undefined ? [] : fits(await ids(kind));
}

/** Follows the words as far as they name commands. */
function follow(
  commands: Commands,
  before: readonly string[],
): { readonly found: Command | Group | undefined; readonly rest: readonly string[] } {
  let found: Command | Group | undefined;
  for (const [at, word] of before.entries()) {
    if (found?.kind === "command") return { found, rest: before.slice(at) };
    const among = found?.commands ?? commands;
    if (Object.hasOwn(among, word)) found = among[word];
  }
  return { found, rest: [] };
}

interface NamedOption {
  readonly name: string;
  readonly takesValue: boolean;
}

function optionsOf(found: Command | Group | undefined): readonly NamedOption[] {
  const own = found?.kind === "command" ? found.options : (found?.alone?.options ?? {});
  return Object.entries({ ...own, ...globalOptions }).map(([key, { placeholder }]) => ({
    name: `--${optionName(key)}`,
    takesValue: placeholder !== undefined,
  }));
}

/** The argument that follows the words of `rest`. */
function argumentAt(command: Command, rest: readonly string[]): Argument | undefined {
  const withValues = new Set(optionsOf(command).flatMap(({ name, takesValue }) => (takesValue ? [name] : [])));
  // The word to complete is the value of an option.
  if (withValues.has(rest.at(-1) ?? "")) return undefined;
  const given = rest.filter((word, at) => !word.startsWith("-") && !withValues.has(rest[at - 1] ?? "")).length;
  const all = Object.values(command.arguments);
  const last = all.at(-1);
  return all[given] ?? (last?.takes === "some" ? last : undefined);
}

async function idsOf(kind: Kind, client: Client, signal: AbortSignal): Promise<readonly string[]> {
  if (kind === "sandboxes") {
    return (await client.sandboxes.list({ status: "all" }, signal)).map(({ id }) => id);
  }
  return (await client.checkpoints.list(undefined, signal)).map(({ id }) => id);
}
