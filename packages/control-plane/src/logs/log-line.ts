/** Where a line comes from. Standard output and error of exec sessions; `agent`: those of agent sessions. */
export const logSources = ["console", "lifecycle", "refusal", "exec_stdout", "exec_stderr", "agent"] as const;
export type LogSource = (typeof logSources)[number];

/** One line of a sandbox's log. */
export interface LogLine {
  readonly source: LogSource;
  readonly line: string;
  /** When it happened; of a session's output, when the session began. Absent: lines of the console have no time. */
  readonly at?: Date;
  readonly session?: {
    readonly id: string;
    readonly argv: readonly string[];
    /** Of a command that has ended by itself. */
    readonly exitCode?: number;
  };
}

/** A longer line is cut into several. */
const maxLineLength = 64 * 1024;

/** Splits text that comes in pieces into lines, without their line breaks. */
export class LineSplitter {
  readonly #decoder = new TextDecoder();
  #rest = "";

  push(bytes: Uint8Array): readonly string[] {
    return this.text(this.#decoder.decode(bytes, { stream: true }));
  }

  text(text: string): readonly string[] {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    while (this.#rest.length > maxLineLength) {
      lines.push(this.#rest.slice(0, maxLineLength));
      this.#rest = this.#rest.slice(maxLineLength);
    }
    return lines.map((line) => line.replace(/\r+$/, ""));
  }

  /** The last line, if no line break ended it. */
  end(): readonly string[] {
    const rest = this.#rest + this.#decoder.decode();
    this.#rest = "";
    return rest === "" ? [] : [rest];
  }
}
