import { type FSWatcher, watch } from "node:fs";
import { basename, dirname } from "node:path";
import { textOf } from "./text-of.ts";

/**
 * The parsed content of a text file that seldom changes, parsed again after a change. A missing file counts as empty. The
 * kernel reports changes: reading the file each time would be a large part of what a short command costs.
 */
export function cachedFile<Value>(path: string, parse: (text: string) => Value): () => Value {
  let known: { readonly value: Value } | undefined;
  return () => {
    if (known === undefined || !isWatched(path)) {
      // The watch begins before the read, so that no change in between is missed.
      onChange(path, () => {
        known = undefined;
      });
      known = { value: parse(textOf(path)) };
    }
    return known.value;
  };
}

interface Watched {
  readonly watcher: FSWatcher;
  readonly listeners: Map<string, (() => void)[]>;
}

const directories = new Map<string, Watched>();

function isWatched(path: string): boolean {
  return directories.get(dirname(path))?.listeners.has(basename(path)) ?? false;
}

/** Watches the directory, so that a replaced file is seen. Nothing is cached where that is impossible. */
function onChange(path: string, listener: () => void): void {
  const directory = dirname(path);
  const watched = directories.get(directory) ?? watchDirectory(directory);
  if (watched === undefined) return;
  const listeners = watched.listeners.get(basename(path)) ?? [];
  if (listeners.length === 0) watched.listeners.set(basename(path), listeners);
  listeners.push(listener);
}

function watchDirectory(directory: string): Watched | undefined {
  const listeners: Watched["listeners"] = new Map();
  const forget = (): void => {
    directories.delete(directory);
    for (const name of listeners.keys()) notify(name);
  };
  const notify = (name: string): void => {
    // Each listener is called once and registers again with its next read.
    const called = listeners.get(name) ?? [];
    listeners.delete(name);
    for (const listener of called) listener();
  };
  try {
    const watcher = watch(directory, { persistent: false }, (_, name) => (name === null ? forget() : notify(name)));
    watcher.once("error", forget);
    const watched = { watcher, listeners };
    directories.set(directory, watched);
    return watched;
  } catch {
    return undefined;
  }
}
