import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { BuildLog } from "./image.ts";

type Listener = (log: BuildLog) => void;

// A caller that joins late gets this much of the earlier log.
const keptLogs = 1000;

/** The builds in progress. A second caller of the same build joins it and gets its earlier log. */
export class Builds<T> {
  readonly #builds = new Map<string, Build<T>>();

  /** Joins the build of `key`, or begins it. The build continues when a caller gives up waiting. */
  async run(key: string, work: (onLog: Listener) => Promise<T>, listener: Listener, signal: AbortSignal): Promise<T> {
    signal.throwIfAborted();
    const build = this.#builds.get(key) ?? this.#start(key, work);
    for (const log of build.logs) listener(log);
    build.listeners.add(listener);
    try {
      return await orAborted(build.result, signal);
    } finally {
      build.listeners.delete(listener);
    }
  }

  /** Resolves when no build is in progress. */
  async idle(): Promise<void> {
    while (this.#builds.size > 0) {
      await Promise.allSettled([...this.#builds.values()].map(({ result }) => result));
    }
  }

  #start(key: string, work: (onLog: Listener) => Promise<T>): Build<T> {
    const logs: BuildLog[] = [];
    const listeners = new Set<Listener>();
    const onLog: Listener = (log) => {
      logs.push(log);
      if (logs.length > keptLogs) logs.shift();
      for (const listener of listeners) listener(log);
    };
    const result = work(onLog).finally(() => this.#builds.delete(key));
    // The build's callers get its failure, and perhaps no caller is left.
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
