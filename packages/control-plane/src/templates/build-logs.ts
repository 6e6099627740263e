import type { TemplateLog } from "./template.ts";

/** A build keeps the first lines of its log, up to this many. Listeners get the later ones too. */
const maxLines = 10_000;

type Listener = (log: TemplateLog) => void;

/** The logs of the builds in progress on this server. The log of a build that has ended is in its row. */
export class BuildLogs {
  readonly #logs = new Map<string, BuildLog>();

  begin(buildId: string): BuildLog {
    const log = new BuildLog();
    this.#logs.set(buildId, log);
    return log;
  }

  /** Undefined for a build that does not run on this server. */
  find(buildId: string): BuildLog | undefined {
    return this.#logs.get(buildId);
  }

  end(buildId: string): void {
    this.#logs.delete(buildId);
  }
}

/** The log of one build. */
export class BuildLog {
  readonly #lines: TemplateLog[] = [];
  readonly #listeners = new Set<Listener>();

  get lines(): readonly TemplateLog[] {
    return this.#lines;
  }

  add(line: TemplateLog): void {
    // The positions of earlier lines stay, since clients read on from a position.
    if (this.#lines.length < maxLines) this.#lines.push(line);
    for (const listener of this.#listeners) listener(line);
  }

  /** Calls the listener with every line so far and every later one, until disposed. */
  listen(listener: Listener): Disposable {
    for (const line of this.#lines) listener(line);
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }
}
