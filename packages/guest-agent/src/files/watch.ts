import { create } from "@bufbuild/protobuf";
import { type Dirent, readdirSync, watch as watchFile, type FSWatcher } from "node:fs";
import { lstat, readdir, realpath } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import {
  type WatchEvent,
  WatchEventSchema,
  WatchEventsSchema,
  type WatchRequest,
} from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile, fileError } from "./errors.ts";
import { absolutePath } from "./path.ts";
import { bytesOfPath, textOfPath } from "./path-bytes.ts";

/** Limit of changes that wait for the listener. */
const maxWaiting = 4096;
/** Limit of changes in one message. */
const batchEvents = 64;
/** Other calls wait at most about this long for a directory tree that is read, in milliseconds. */
const sliceMs = 10;

/** Reports changes of a file, or in a directory, until the host gives the stream up. */
export async function watch(request: WatchRequest, stream: Stream, system: System): Promise<object> {
  const path = absolutePath(request.path);
  const changes = new Changes(path);
  using tree = new WatchedTree(changes, (located) => pathOf(located, { path, located: system.locate(path) }));
  await aboutFile(path, async () => {
    const located = system.locate(path);
    if (!(await lstat(bytesOfPath(located))).isDirectory()) tree.addFile(located);
    else if (request.recursive) {
      const real = textOfPath(await realpath(bytesOfPath(located), { encoding: "buffer" }));
      await tree.addTree(located, { quickly: !system.mayStall(real), signal: stream.signal });
    } else tree.addDirectory(located);
  });
  stream.signal.addEventListener("abort", () => changes.end(stream.signal.reason), { once: true });
  if (stream.signal.aborted) changes.end(stream.signal.reason);
  await stream.sendMessage(WatchEventsSchema, create(WatchEventsSchema));
  for (;;) {
    const events = await changes.take();
    await stream.sendMessage(WatchEventsSchema, create(WatchEventsSchema, { events }));
  }
}

/** The path of a located file as the caller knows it. */
function pathOf(found: string, root: { path: string; located: string }): string {
  return found === root.located ? root.path : join(root.path, found.slice(root.located.length));
}

/** Watches directories, and new ones that appear in them. */
class WatchedTree implements Disposable {
  readonly #changes: Changes;
  readonly #pathOf: (located: string) => string;
  readonly #watchers = new Map<string, FSWatcher>();

  constructor(changes: Changes, pathOf: (located: string) => string) {
    this.#changes = changes;
    this.#pathOf = pathOf;
  }

  addDirectory(directory: string): void {
    this.#addDirectory(directory, { recursive: false });
  }

  /**
   * Watches a directory and all directories below it. `quickly` reads them without the thread pool, in a third of the
   * time: only for file systems that always answer, because a call that waits stops the whole agent.
   *
   * @throws for the directory itself; directories below it that vanish meanwhile are skipped
   */
  async addTree(root: string, { quickly, signal }: { quickly: boolean; signal?: AbortSignal }): Promise<void> {
    const pending = [root];
    let sliceEnd = performance.now() + sliceMs;
    for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
      if (performance.now() > sliceEnd) {
        await nextTurn();
        sliceEnd = performance.now() + sliceMs;
      }
      signal?.throwIfAborted();
      try {
        // Watched first and read then: a directory made in between is seen at least once.
        if (!this.#addDirectory(directory, { recursive: true })) continue;
        const entries: readonly Dirent<Buffer>[] = quickly
          ? readdirSync(bytesOfPath(directory), { withFileTypes: true, encoding: "buffer" })
          : await readdir(bytesOfPath(directory), { withFileTypes: true, encoding: "buffer" });
        for (const entry of entries) if (entry.isDirectory()) pending.push(join(directory, textOfPath(entry.name)));
      } catch (error) {
        if (directory === root || !isGone(error)) throw error;
      }
    }
  }

  /** Returns false for a directory that is watched already. */
  #addDirectory(directory: string, { recursive }: { recursive: boolean }): boolean {
    if (this.#watchers.has(directory)) return false;
    this.#watch(directory, (kind, name) => {
      if (name === undefined) this.#changes.add("lost", this.#pathOf(directory));
      else
        this.#look(kind, join(directory, name), { directory, recursive }).catch((error: unknown) => this.#fail(error));
    });
    return true;
  }

  /** Watches the directory of the file, so that a replacement is seen too. */
  addFile(file: string): void {
    this.#watch(dirname(file), (kind, name) => {
      if (name !== basename(file)) return;
      this.#look(kind, file, { directory: dirname(file), recursive: false }).catch((error: unknown) =>
        this.#fail(error),
      );
    });
  }

  [Symbol.dispose](): void {
    for (const watcher of this.#watchers.values()) watcher.close();
  }

  #watch(directory: string, listener: (kind: "rename" | "change", name: string | undefined) => void): void {
    const watcher = openWatcher(directory, listener);
    watcher.on("error", (error) => this.#fail(error));
    this.#watchers.set(directory, watcher);
  }

  async #look(
    kind: "rename" | "change",
    file: string,
    { directory, recursive }: { directory: string; recursive: boolean },
  ): Promise<void> {
    if (kind === "change") return this.#changes.add("changed", this.#pathOf(file));
    const stats = await orUndefined(lstat(bytesOfPath(file)));
    if (stats === undefined) {
      this.#remove(file);
      // The removal of a directory is reported under its own name, as if it were inside itself.
      if ((await orUndefined(lstat(bytesOfPath(directory)))) === undefined) return this.#remove(directory);
      return this.#changes.add("removed", this.#pathOf(file));
    }
    this.#changes.add("created", this.#pathOf(file));
    if (!recursive || !stats.isDirectory()) return;
    await this.#addAppeared(file);
    // Entries that appeared before the directory was watched.
    for (const name of (await orUndefined(readdir(bytesOfPath(file), { encoding: "buffer" }))) ?? []) {
      await this.#look("rename", join(file, textOfPath(name)), { directory: file, recursive });
    }
  }

  async #addAppeared(directory: string): Promise<void> {
    try {
      await this.addTree(directory, { quickly: false });
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  }

  /** Removes a directory and everything below it, which is gone as well, or is reported under its new name. */
  #remove(directory: string): void {
    // A file, or a directory that was not watched: nothing below it is watched either.
    if (!this.#watchers.has(directory)) return;
    for (const [watched, watcher] of this.#watchers) {
      if (watched !== directory && !watched.startsWith(`${directory}/`)) continue;
      watcher.close();
      this.#watchers.delete(watched);
      this.#changes.add("removed", this.#pathOf(watched));
    }
  }

  #fail(error: unknown): void {
    this.#changes.end(fileError(error, "a directory below"));
  }
}

/** @throws `quota_exceeded` when the kernel's limit of watches is reached, which inotify(7) reports as a full disk */
function openWatcher(
  directory: string,
  listener: (kind: "rename" | "change", name: string | undefined) => void,
): FSWatcher {
  try {
    return watchFile(bytesOfPath(directory), { persistent: false, encoding: "buffer" }, (kind, name) =>
      listener(kind, name === null ? undefined : textOfPath(name)),
    );
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
    const message =
      `${directory} cannot be watched: the guest's watches are used up. Watch fewer directories, or raise ` +
      "fs.inotify.max_user_watches";
    throw new SandboxError("quota_exceeded", message, { cause: error });
  }
}

/** Changes that wait to be reported, each once. */
class Changes {
  readonly #root: string;
  readonly #waiting = new Map<string, WatchEvent>();
  #wake: (() => void) | undefined;
  #ended: { readonly reason: unknown } | undefined;

  constructor(root: string) {
    this.#root = root;
  }

  add(kind: string, path: string): void {
    if (this.#waiting.size < maxWaiting) this.#put(kind, path);
    else {
      this.#waiting.clear();
      this.#put("lost", this.#root);
    }
    this.#wake?.();
  }

  end(reason: unknown): void {
    this.#ended ??= { reason };
    this.#wake?.();
  }

  async take(): Promise<WatchEvent[]> {
    for (;;) {
      if (this.#ended !== undefined) throw this.#ended.reason;
      if (this.#waiting.size > 0) {
        const entries = [...this.#waiting].slice(0, batchEvents);
        for (const [key] of entries) this.#waiting.delete(key);
        return entries.map(([, event]) => event);
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
  }

  #put(kind: string, path: string): void {
    this.#waiting.set(`${kind} ${path}`, create(WatchEventSchema, { kind, path }));
  }
}

async function orUndefined<Value>(promise: Promise<Value>): Promise<Value | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENOTDIR";
}
