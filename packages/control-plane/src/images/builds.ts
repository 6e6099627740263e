import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { BuildLog } from "./image.ts";

type Listener = (log: BuildLog) => void;

// Who joins late hears the end of what was told before.
const keptLogs = 1000;

/** Builds that are on their way, each one once: who wants the same joins in and hears what was told before. */
export class Builds<T> {
  readonly #builds = new Map<string, Build<T>>();

  /** Joins the build of `key`, or begins it. Who gives up waiting does not end it. */
  async run(key: string, work: (tell: Listener) => Promise<T>, listener: Listener, signal: AbortSignal): Promise<T> {
    signal.throwIfAborted();
    const build = this.#builds.get(key) ?? this.#begin(key, work);
    for (const log of build.logs) listener(log);
    build.listeners.add(listener);
    try {
      return await orAborted(build.result, signal);
    } finally {
      build.listeners.delete(listener);
    }
  }

  /** Resolves when none is on its way. */
  async idle(): Promise<void> {
    while (this.#builds.size > 0) {
      await Promise.allSettled([...this.#builds.values()].map(({ result }) => result));
    }
  }

  #begin(key: string, work: (tell: Listener) => Promise<T>): Build<T> {
    const logs: BuildLog[] = [];
    const listeners = new Set<Listener>();
    const tell: Listener = (log) => {
      logs.push(log);
      if (logs.length > keptLogs) logs.shift();
      for (const listener of listeners) listener(log);
    };
    const result = work(tell).finally(() => this.#builds.delete(key));
    // Whoever waits for it hears of its failure; perhaps nobody does any more.
    result.catch(() => {});
    const build = { logs, listeners, result };
    this.#builds.set(key, build);
    return build;
  }
}

interface Build<T> {
  readonly logs: readonly BuildLog[];
  readonly listeners: Set<Listener>;
  readonly result: Promise<T>;
}
