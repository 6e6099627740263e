import type { Readable } from "node:stream";
import type { Client } from "@opensandbox/sdk";
import type { Globals } from "./arguments/global-options.ts";
import type { Output } from "./output/write-to.ts";
import type { Interrupts } from "./interrupts.ts";
import type { Progress } from "./output/progress.ts";

/** The process around the command line. */
export interface Host {
  /** The program's name as the user types it. */
  readonly program: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdin: Readable;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly interrupts: Interrupts;
  /** A client of the server at `url`. Sends nothing yet. */
  connect(url: string, apiKey: string | undefined): Promise<Client>;
}

/** Text that is printed with its escape sequences. Its parts of other origin have passed `visibleText`. */
export interface StyledText {
  readonly styled: string;
}

/** Everything a command uses besides its input. */
export interface Context {
  readonly host: Host;
  readonly globals: Globals;
  /** Aborts at an interrupt, unless the command handles interrupts itself. */
  readonly signal: AbortSignal;
  /**
   * Writes the result to standard output: lines for people, or with `--json` the value on one line. Control characters
   * in it become visible text.
   */
  readonly print: (human: string | StyledText, machine: unknown) => Promise<void>;
  /** Writes a remark to standard error, with control characters as visible text. */
  readonly note: (text: string) => void;
  /** Shows progress on standard error until it is disposed. */
  readonly progress: () => Progress;
  /** A client of the configured server, or of the one on this host. @throws `unavailable` when there is none */
  readonly client: () => Promise<Client>;
  /** The help text of a command. @throws a usage error when there is no such command */
  readonly help: (path: readonly string[]) => string;
}
