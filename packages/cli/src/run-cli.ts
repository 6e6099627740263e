import { asSandboxError, isSandboxError, type SandboxError } from "@opensandbox/wire/errors.ts";
import type { Command, Commands } from "./command.ts";
import type { Context, Host } from "./context.ts";
import { findCommand } from "./arguments/find-command.ts";
import type { Globals } from "./arguments/global-options.ts";
import { help, usage } from "./help.ts";
import { exitCodeOf } from "./interrupts.ts";
import { asksForJson, parseInput } from "./arguments/parse-input.ts";
import { startProgress } from "./output/progress.ts";
import { connectionAdvice } from "./server/connection-advice.ts";
import { findServerAddress, noServer, type ServerAddress } from "./server/find-server-address.ts";
import { usageError, usageOf } from "./arguments/usage-error.ts";
import { visibleJson, visibleText } from "./output/visible-text.ts";
import { isReaderGone, writeTo } from "./output/write-to.ts";

// The exit code of a program that SIGPIPE ended.
const readerGoneCode = 141;

/** Runs the command that `argv` names, to its end. Returns the exit code; never rejects. */
export async function runCli(commands: Commands, argv: readonly string[], host: Host): Promise<number> {
  const connection: Connection = { address: undefined };
  try {
    return await execute(commands, argv, host, connection);
  } catch (error) {
    if (isReaderGone(error)) return readerGoneCode;
    printError(asSandboxError(originalError(error)), { commands, argv, connection }, host);
    if (error instanceof Error && usageOf(error) !== undefined) return 2;
    if (isSandboxError(error, "canceled") && host.interrupts.last !== undefined)
      return exitCodeOf(host.interrupts.last);
    return 1;
  }
}

/** The server that the command connected to, to explain a failure. */
interface Connection {
  address: ServerAddress | undefined;
}

async function execute(
  commands: Commands,
  argv: readonly string[],
  host: Host,
  connection: Connection,
): Promise<number> {
  const { path, found, rest } = findCommand(commands, argv);
  const helpFor = (words: readonly string[]): string => {
    const { path, rest } = findCommand(commands, words);
    if (rest.length > 0) throw usageError(`unexpected argument "${rest[0]}"`, path);
    return help(commands, path, host.program);
  };
  const command = found?.kind === "group" ? found.alone : found;
  // Without a command, options are parsed too: a wrong one is reported.
  const { globals, input } = parseInput(command ?? showHelp(path), rest, path);
  const context = contextOf(host, globals, { helpFor, connection });
  if (globals.help || command === undefined) {
    await writeTo(host.stdout, `${helpFor(path)}\n`);
    return 0;
  }
  return (await command.run(input, context)) ?? 0;
}

/** The command of a noun without a verb, and of the program without a command. */
function showHelp(path: readonly string[]): Command {
  return {
    kind: "command",
    summary: "",
    arguments: {},
    options: {},
    examples: [],
    run: async (_input, { help, print }) => await print(help(path), { help: help(path) }),
  };
}

function contextOf(
  host: Host,
  globals: Globals,
  { helpFor, connection }: { readonly helpFor: Context["help"]; readonly connection: Connection },
): Context {
  return {
    host,
    globals,
    signal: host.interrupts.signal,
    print: async (human, machine) => {
      const text = typeof human === "string" ? visibleText(human) : human.styled;
      const shown = globals.json ? visibleJson(machine) : text;
      if (shown !== "") await writeTo(host.stdout, `${shown}\n`);
    },
    note: (text) => {
      host.stderr.write(`osb: ${visibleText(text)}\n`);
    },
    progress: () => startProgress(host.stderr),
    client: async () => {
      const address = await findServerAddress(globals, host.env);
      if (address === undefined) throw noServer(host.program);
      connection.address = address;
      return await host.connect(address.url.value, address.apiKey?.value);
    },
    help: helpFor,
  };
}

/** The original failure. A second failure, of the clean-up, would not help the reader. */
function originalError(error: unknown): unknown {
  return error instanceof SuppressedError ? originalError(error.suppressed) : error;
}

interface Failed {
  readonly commands: Commands;
  readonly argv: readonly string[];
  readonly connection: Connection;
}

function printError(error: SandboxError, { commands, argv, connection }: Failed, { program, stderr }: Host): void {
  const { code, message } = error;
  const path = usageOf(error);
  const lines = path === undefined ? undefined : usage(commands, path, program);
  if (asksForJson(argv)) {
    stderr.write(`${visibleJson({ error: message, code, ...(lines === undefined ? {} : { usage: lines }) })}\n`);
    return;
  }
  stderr.write(`osb: ${visibleText(message)}\n`);
  if (lines !== undefined) {
    stderr.write(`usage: ${lines}\nRun '${[program, ...(path ?? [])].join(" ")} --help' for more.\n`);
  }
  const advice = connection.address && connectionAdvice(error, connection.address, program);
  if (advice !== undefined) stderr.write(`${visibleText(advice)}\n`);
}
