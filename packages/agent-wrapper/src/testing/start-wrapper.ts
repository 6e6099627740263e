import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import type { Event } from "../event.ts";
import { stubKey } from "./stub-model.ts";

const main = join(import.meta.dirname, "../main.ts");

/** The program as it runs in a sandbox, in a home of its own. */
export class Wrapper implements AsyncDisposable {
  readonly child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly ended: Promise<number | NodeJS.Signals>;
  stderr = "";
  readonly #events: AsyncIterator<string>;

  constructor(home: string, env: Readonly<Record<string, string>>) {
    this.child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", main], {
      cwd: home,
      // A group of its own, as every session has.
      detached: true,
      env: { PATH: process.env["PATH"], HOME: home, ANTHROPIC_API_KEY: stubKey, ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.child.stderr.setEncoding("utf8").on("data", (text: string) => (this.stderr += text));
    this.ended = once(this.child, "close").then(([code, signal]: (number | NodeJS.Signals)[]) => code ?? signal ?? 0);
    this.#events = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }

  /** Commands, or text as it is. */
  write(...lines: readonly (object | string)[]): void {
    for (const line of lines) this.child.stdin.write(typeof line === "string" ? line : `${JSON.stringify(line)}\n`);
  }

  async next(): Promise<Event> {
    const { value, done } = await this.#events.next();
    if (done === true) throw new Error(`it has ended: ${this.stderr}`);
    return JSON.parse(value) as Event;
  }

  /** The events up to one of this type, which is the last. */
  async until(type: string): Promise<Event[]> {
    const events: Event[] = [];
    do events.push(await this.next());
    while (events.at(-1)?.type !== type);
    return events;
  }

  /** The events of one turn. */
  async ask(text: string): Promise<Event[]> {
    this.write({ type: "prompt", text });
    return await this.until("turn_complete");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null)
      process.kill(-Number(this.child.pid), "SIGKILL");
    await this.ended;
  }
}
