import { once } from "node:events";
// It is CommonJS: names cannot be taken from it one by one.
import xterm from "@xterm/headless";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { WebSocket } from "ws";

/** A terminal as a person has it: what comes over a WebSocket is drawn, and what the terminal answers is sent back. */
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

  /** The lines as they are to be seen, without the blanks at their ends. */
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

  /** Resolves when the screen is as wanted; rejects with what it shows when it does not become so in two minutes. */
  async shows(isSo: (lines: readonly string[]) => boolean): Promise<void> {
    try {
      await eventually("the screen is as wanted", () => isSo(this.lines), { withinMs: 120_000, everyMs: 20 });
    } catch (cause) {
      throw new Error(`the screen shows:\n${this.lines.join("\n")}`, { cause });
    }
  }

  /** Leaves the session alone. */
  disconnect(): void {
    this.#socket.terminate();
  }
}
