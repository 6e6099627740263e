import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { within } from "@opensandbox/wire/testing/eventually.ts";
import type { Event } from "../event.ts";
import { stubKey } from "./stub-model.ts";

const patienceMs = 60_000;

const main = join(import.meta.dirname, "../main.ts");

/** Runs the program as in a sandbox, with a home directory of its own. */
export class Wrapper implements AsyncDisposable {
  readonly child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly ended: Promise<number | NodeJS.Signals>;
  stderr = "";
  readonly #events: AsyncIterator<string>;

  constructor(home: string, env: Readonly<Record<string, string>>) {
    this.child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", main], {
      cwd: home,
      // Each session has a process group of its own.
      detached: true,
      env: { PATH: process.env["PATH"], HOME: home, ANTHROPIC_API_KEY: stubKey, ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.child.stderr.setEncoding("utf8").on("data", (text: string) => (this.stderr += text));
    this.ended = once(this.child, "close").then(([code, signal]: (number | NodeJS.Signals)[]) => code ?? signal ?? 0);
    this.#events = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }

  /** Writes commands as JSON, and strings unchanged. */
  write(...lines: readonly (object | string)[]): void {
    for (const line of lines) this.child.stdin.write(typeof line === "string" ? line : `${JSON.stringify(line)}\n`);
  }

  async next(): Promise<Event> {
    const { value, done } = await within("the program writes an event", this.#events.next(), patienceMs);
    if (done === true) throw new Error(`the program exited: ${this.stderr}`);
    return JSON.parse(value) as Event;
  }

  /** The events up to and including the next one of this type. */
  async until(type: string): Promise<Event[]> {
    const events: Event[] = [];
    do events.push(await this.next());
    while (events.at(-1)?.type !== type);
    return events;
  }

  /** Sends a prompt and returns the events of its turn. */
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
