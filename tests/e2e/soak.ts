import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { memoryBytes, type SpawnedServer } from "./spawn-server.ts";

export interface SoakOptions {
  /** How many exist at the same time. */
  readonly sandboxes: number;
  readonly seconds: number;
}

interface Sample {
  readonly atMs: number;
  readonly value: number;
}

/** Calls at the same time. */
const callers = 4;

/**
 * How much the server's memory may grow between the middle and the end, in bytes: its heap grows and shrinks by this
 * much anyway.
 */
const allowedGrowthBytes = 48 * 2 ** 20;

/** The median of a call in the last third is at most this many times that in the second third. */
const allowedSlowdown = 1.5;

/** Calls that take less than this are not compared: other processes of the host change them by as much. */
const comparableMs = 20;

/** A median of fewer samples says nothing: a slow host deletes few sandboxes in a short soak. */
const minSamples = 5;

/** Uses the sandboxes of a server for a while, and records its memory and how long calls take. */
export class Soak {
  readonly #server: SpawnedServer;
  readonly #options: SoakOptions;
  readonly #samples = new Map<string, Sample[]>();
  readonly #since = performance.now();

  constructor(server: SpawnedServer, options: SoakOptions) {
    this.#server = server;
    this.#options = options;
  }

  async call(method: string, path: string, body?: unknown): Promise<readonly unknown[] & Record<string, unknown>> {
    const response = await fetch(`${this.#server.url}/api/sandboxes${path}`, {
      ...{ method, headers: { "x-api-key": this.#server.apiKey }, signal: AbortSignal.timeout(300_000) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
    return (text === "" ? {} : JSON.parse(text)) as readonly unknown[] & Record<string, unknown>;
  }

  /** Resolves when the time has passed and all sandboxes are deleted. */
  async run(): Promise<void> {
    const { sandboxes, seconds } = this.#options;
    const until = performance.now() + seconds * 1000;
    const waiting: string[] = [];
    let made = 0;
    const work = async (): Promise<void> => {
      while (performance.now() < until) {
        if (made < sandboxes) {
          made += 1;
          waiting.push(await this.#create());
        }
        const id = waiting.shift();
        if (id === undefined) {
          await sleep(50);
          continue;
        }
        waiting.push(await this.#use(id));
      }
    };
    const watching = this.#watchMemory(until);
    await Promise.all(Array.from({ length: callers }, work));
    await watching;
    for (const id of waiting) await this.#timed("delete", () => this.call("DELETE", `/${id}`));
  }

  report(): string[] {
    return [...this.#samples].map(([name, samples]) => {
      const [before, later] = this.#thirds(samples);
      const unit = name === "memory" ? "MB" : "ms";
      const digits = (value: number): string => (name === "memory" ? value / 1e6 : value).toFixed(1);
      return `${name}: ${digits(before)} ${unit}, then ${digits(later)} ${unit}, ${samples.length} times`;
    });
  }

  assertFlat(): void {
    for (const [name, samples] of this.#samples) {
      const [before, later] = this.#thirds(samples);
      if (name === "memory") {
        assert.ok(later - before < allowedGrowthBytes, `the server's memory grew from ${before} to ${later} bytes`);
      } else if (before > 0 && later > comparableMs) {
        assert.ok(later <= allowedSlowdown * before, `${name} took ${before} ms, and ${later} ms in the end`);
      }
    }
  }

  async #create(): Promise<string> {
    const { sandboxID } = await this.#timed("create", () => this.call("POST", "", { templateID: "minimal" }));
    return String(sandboxID);
  }

  /** Uses a sandbox once and returns it, or one that takes its place. */
  async #use(id: string): Promise<string> {
    const word = randomHex(8);
    const line = `echo ${word} >word; cat word; head -c 100000 /dev/zero | wc -c`;
    const run = () => this.call("POST", `/${id}/exec/run`, { cmd: "sh", args: ["-c", line] });
    assert.equal((await this.#timed("command", run))["stdout"], `${word}\n100000\n`);
    await this.#timed("list", () => this.call("GET", "?status=running"));
    if (Math.random() < 0.7) return id;
    await this.#timed("delete", () => this.call("DELETE", `/${id}`));
    return await this.#create();
  }

  async #timed<Result>(name: string, act: () => Promise<Result>): Promise<Result> {
    const since = performance.now();
    const result = await act();
    this.#keep(name, performance.now() - since);
    return result;
  }

  async #watchMemory(until: number): Promise<void> {
    while (performance.now() < until) {
      this.#keep("memory", await memoryBytes(this.#server.process.pid, "now"));
      await sleep(250);
    }
  }

  #keep(name: string, value: number): void {
    const samples = this.#samples.get(name) ?? [];
    samples.push({ atMs: performance.now() - this.#since, value });
    this.#samples.set(name, samples);
  }

  /** The medians of the second and of the last third of the time, 0 for too few samples. The first third warms up. */
  #thirds(samples: readonly Sample[]): readonly [number, number] {
    const third = (this.#options.seconds * 1000) / 3;
    const median = (from: number, to: number): number => {
      const values = samples.filter(({ atMs }) => atMs >= from && atMs < to).map(({ value }) => value);
      if (values.length < minSamples) return 0;
      return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
    };
    return [median(third, 2 * third), median(2 * third, Infinity)];
  }
}
