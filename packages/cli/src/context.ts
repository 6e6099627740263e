import type { Readable } from "node:stream";
import type { Client } from "@opensandbox/sdk";
import type { Globals } from "./arguments/global-options.ts";
import type { Output } from "./output/write-to.ts";
import type { Interrupts } from "./interrupts.ts";
import type { Progress } from "./output/progress.ts";

/** What the command line touches of the process that it runs in. */
export interface Host {
  /** How the user calls the program. */
  readonly program: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdin: Readable;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly interrupts: Interrupts;
  /** A client of the server at `url`; nothing is sent yet. */
  connect(url: string, apiKey: string | undefined): Promise<Client>;
}

/** Text that is printed with its escape sequences. Its parts of other origin have passed `visibleText`. */
export interface StyledText {
  readonly styled: string;
}

/** What a command is given beside its input. */
export interface Context {
  readonly host: Host;
  readonly globals: Globals;
  /** Aborted when the user interrupts and no command has taken that upon itself. */
  readonly signal: AbortSignal;
  /**
   * Writes the result to standard output: lines for people, or with `--json` the value on one line. Control characters
   * in it become visible text.
   */
  readonly print: (human: string | StyledText, machine: unknown) => Promise<void>;
  /** Something beside the result, on standard error. */
  readonly note: (text: string) => void;
  /** Tells of what takes longer than a moment, until it is disposed. */
  readonly progress: () => Progress;
  /** The server that was named or that runs here. @throws `unavailable` with what to do when there is none */
  readonly client: () => Promise<Client>;
  readonly help: (path: readonly string[]) => string;
}
