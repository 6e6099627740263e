import { describeError } from "@opensandbox/wire/errors.ts";
import type { log as Log } from "../log.ts";
import type { CollectionReport } from "./collect.ts";

/** How often a server looks for what nothing uses. */
const everyMs = 600_000;

/** A collection begins this long after something has been added to the cache; what is added meanwhile counts too. */
const soonMs = 5000;

export interface CollectorOptions {
  readonly collect: (signal: AbortSignal) => Promise<CollectionReport>;
  readonly log: typeof Log;
  /** Overrides for tests, in milliseconds. */
  readonly everyMs?: number;
  readonly soonMs?: number;
}

/** Collects in the background: soon after the start, regularly, and soon after the cache has grown. Never twice at once. */
export class Collector implements AsyncDisposable {
  readonly #options: CollectorOptions;
  readonly #ending = new AbortController();
  readonly #regularly: NodeJS.Timeout;
  #soon: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  /** The cache has grown during a collection. */
  #isWanted = false;

  constructor(options: CollectorOptions) {
    this.#options = options;
    this.#regularly = setInterval(() => this.request(), options.everyMs ?? everyMs);
    this.#regularly.unref();
    this.request();
  }

  /** The cache has grown: collects soon. */
  request(): void {
    if (this.#ending.signal.aborted) return;
    this.#soon ??= setTimeout(() => this.#begin(), this.#options.soonMs ?? soonMs).unref();
  }

  /** Waits for the removal in progress. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#regularly);
    clearTimeout(this.#soon);
    this.#ending.abort();
    await this.#running;
  }

  #begin(): void {
    this.#soon = undefined;
    if (this.#running !== undefined) {
      this.#isWanted = true;
      return;
    }
    this.#running = this.#collect().finally(() => {
      this.#running = undefined;
      if (this.#isWanted) this.request();
      this.#isWanted = false;
    });
  }

  async #collect(): Promise<void> {
    const { collect, log } = this.#options;
    try {
      logReport(await collect(this.#ending.signal), log);
    } catch (error) {
      log("error", "cannot look for unused files and rows: the next round tries again", describeError(error));
    }
  }
}

function logReport({ removed, failed, bytes, unusedBytes, maxBytes }: CollectionReport, log: typeof Log): void {
  for (const collected of removed) {
    const isDisk = collected.kind === "machine" || collected.kind === "lost machine";
    log(isDisk ? "warn" : "info", `collected: ${collected.kind}`, collected);
  }
  for (const failure of failed) log("warn", "cannot remove unused files and rows: the next round tries again", failure);
  if (removed.length > 0) log("info", "collection finished", { removed: removed.length, bytes, unusedBytes, maxBytes });
}
