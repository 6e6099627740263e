import { spawn } from "node:child_process";
import { once } from "node:events";
import { within } from "@opensandbox/wire/testing/eventually.ts";
// A CommonJS module: it has no named exports.
import xterm from "@xterm/headless";

const columns = 120;

/** A command in a real terminal of its own, and its screen. */
export class RecordedTerminal implements AsyncDisposable {
  readonly #screen = new xterm.Terminal({ cols: columns, rows: 50, scrollback: 1000, allowProposedApi: true });
  readonly #child;
  readonly #closed: Promise<unknown>;
  #changed = Promise.withResolvers<void>();
  #isClosed = false;

  /** `line` is a line for bash. */
  constructor(line: string, options: { readonly cwd: string; readonly env: NodeJS.ProcessEnv }) {
    // script(1) makes the terminal, but gives it no size.
    const sized = `stty cols ${columns} rows 50; ${line}`;
    this.#child = spawn("script", ["--quiet", "--flush", "--return", "--command", sized, "/dev/null"], {
      ...options,
      env: { ...options.env, SHELL: "/bin/bash", TERM: "xterm-256color" },
      stdio: ["pipe", "pipe", "inherit"],
    });
    // The command may end before it has read all keys.
    this.#child.stdin.on("error", () => undefined);
    this.#child.stdout.on("data", (bytes: Buffer) => this.#screen.write(bytes, () => this.#notify()));
    this.#closed = once(this.#child, "close").then(() => {
      this.#isClosed = true;
      this.#notify();
    });
  }

  /** The lines so far, without trailing blanks and trailing empty lines. */
  get text(): string {
    const { active } = this.#screen.buffer;
    const lines = Array.from({ length: active.length }, (_, row) => active.getLine(row)?.translateToString(true) ?? "");
    return lines
      .map((line) => line.trimEnd())
      .join("\n")
      .trimEnd();
  }

  type(keys: string): void {
    this.#child.stdin.write(keys);
  }

  /** Resolves when `pattern` is visible. Rejects with the screen when the command ends or `signal` is aborted. */
  async shows(pattern: RegExp, signal: AbortSignal): Promise<void> {
    while (!pattern.test(this.text)) {
      if (this.#isClosed) throw new Error(`ended without ${String(pattern)}; the terminal shows:\n${this.text}`);
      await this.#change(signal);
    }
  }

  /** The command's code, once it has ended. */
  async ended(signal: AbortSignal): Promise<number> {
    while (!this.#isClosed) await this.#change(signal);
    // The terminal draws the last output after the command's end.
    await new Promise<void>((resolve) => this.#screen.write("", resolve));
    return this.#child.exitCode ?? 1;
  }

  /** Ends a running command, and waits for it. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isClosed) this.#child.kill("SIGTERM");
    await within("the command ends after SIGTERM", this.#closed, 60_000);
  }

  async #change(signal: AbortSignal): Promise<void> {
    const { promise, reject } = Promise.withResolvers<never>();
    const stop = (): void => reject(new Error(`too long; the terminal shows:\n${this.text}`));
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    try {
      await Promise.race([this.#changed.promise, promise]);
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  #notify(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}
