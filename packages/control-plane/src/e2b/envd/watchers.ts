import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex, type SandboxId } from "@opensandbox/wire/ids.ts";
import type { FilesystemEvent } from "@opensandbox/wire/e2b/envd.ts";

/** A watcher ends when no client has polled it for this long. */
const idleMs = 600_000;
const maxWaiting = 4096;
const maxWatchers = 1000;

interface Watcher {
  readonly sandboxId: SandboxId;
  readonly end: AbortController;
  events: FilesystemEvent[];
  failure: SandboxError | undefined;
  idle: NodeJS.Timeout;
}

/** Watches of directories for clients that poll. */
export class Watchers {
  readonly #watchers = new Map<string, Watcher>();

  /** Keeps the events of a watch until `end` is aborted. Returns the watcher's id. @throws `quota_exceeded` */
  add(sandboxId: SandboxId, changes: AsyncIterable<FilesystemEvent>, end: AbortController): string {
    if (this.#watchers.size >= maxWatchers) {
      end.abort(new SandboxError("canceled", "there are too many watchers"));
      throw new SandboxError("quota_exceeded", `this server has ${maxWatchers} watchers already: remove some`);
    }
    const watcherId = randomHex(16);
    const idle = this.#expiry(watcherId);
    const watcher: Watcher = { sandboxId, end, events: [], failure: undefined, idle };
    this.#watchers.set(watcherId, watcher);
    void collect(watcher, changes);
    return watcherId;
  }

  /** The events since the previous call. @throws the failure that ended the watch */
  take(sandboxId: SandboxId, watcherId: string): FilesystemEvent[] {
    const watcher = this.#get(sandboxId, watcherId);
    clearTimeout(watcher.idle);
    watcher.idle = this.#expiry(watcherId);
    const { events, failure } = watcher;
    watcher.events = [];
    if (events.length === 0 && failure !== undefined) throw failure;
    return events;
  }

  remove(sandboxId: SandboxId, watcherId: string): void {
    this.#get(sandboxId, watcherId);
    this.#end(watcherId);
  }

  #get(id: SandboxId, watcherId: string): Watcher {
    const watcher = this.#watchers.get(watcherId);
    if (watcher?.sandboxId === id) return watcher;
    throw new SandboxError("not_found", `watcher with id ${watcherId} not found`, { resource: "file", id: watcherId });
  }

  #expiry(watcherId: string): NodeJS.Timeout {
    return setTimeout(() => this.#end(watcherId), idleMs).unref();
  }

  #end(watcherId: string): void {
    const watcher = this.#watchers.get(watcherId);
    clearTimeout(watcher?.idle);
    watcher?.end.abort(new SandboxError("canceled", "the watcher was removed"));
    this.#watchers.delete(watcherId);
  }
}

/** Keeps the events until they are taken. Never rejects. */
async function collect(watcher: Watcher, changes: AsyncIterable<FilesystemEvent>): Promise<void> {
  try {
    for await (const event of changes) {
      if (watcher.events.length >= maxWaiting) {
        throw new SandboxError("unavailable", "changes came faster than they were read: watch the directory again");
      }
      watcher.events.push(event);
    }
  } catch (error) {
    watcher.failure = asSandboxError(error);
  }
}
