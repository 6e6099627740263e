import { once } from "node:events";
// A CommonJS module: it has no named exports.
import xterm from "@xterm/headless";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { WebSocket } from "ws";

/** A terminal emulator: draws the output from a WebSocket and sends the terminal's replies back. */
export class Screen {
  readonly #terminal: InstanceType<typeof xterm.Terminal>;
  readonly #socket: WebSocket;

  constructor(url: string, { columns, rows }: { columns: number; rows: number }) {
    this.#terminal = new xterm.Terminal({ cols: columns, rows, allowProposedApi: true });
    this.#socket = new WebSocket(url);
    this.#socket.on("message", (data: Buffer) => {
      this.#terminal.write(data);
    });
    this.#terminal.onData((answer) => this.#socket.send(answer));
  }

  async opened(): Promise<void> {
    await within("the terminal's connection opens", once(this.#socket, "open"));
  }

  /** The visible lines, without trailing blanks. */
  get lines(): string[] {
    const { active } = this.#terminal.buffer;
    return Array.from(
      { length: this.#terminal.rows },
      (_, row) =>
        active
          .getLine(active.baseY + row)
          ?.translateToString()
          .trimEnd() ?? "",
    );
  }

  get cursor(): { readonly column: number; readonly row: number } {
    const { cursorX, cursorY } = this.#terminal.buffer.active;
    return { column: cursorX, row: cursorY };
  }

  type(keys: string): void {
    this.#socket.send(keys);
  }

  resize({ columns, rows }: { columns: number; rows: number }): void {
    this.#terminal.resize(columns, rows);
  }

  /** Resolves when the screen is as wanted. Rejects with the screen's text after two minutes. */
  async shows(isSo: (lines: readonly string[]) => boolean): Promise<void> {
    try {
      await eventually("the screen is as wanted", () => isSo(this.lines), { withinMs: 120_000, everyMs: 20 });
    } catch (cause) {
      throw new Error(`the screen shows:\n${this.lines.join("\n")}`, { cause });
    }
  }

  /** Detaches from the session. */
  disconnect(): void {
    this.#socket.terminate();
  }
}
