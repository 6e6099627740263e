import { type FSWatcher, watch } from "node:fs";
import { basename, dirname } from "node:path";
import { textOf } from "./text-of.ts";

/**
 * What `parse` makes of a text file that seldom changes, parsed again when it did. A file that is not there is empty.
 * The kernel tells of changes: looking each time would be a good part of what a short command costs.
 */
export function cachedFile<Value>(path: string, parse: (text: string) => Value): () => Value {
  let known: { readonly value: Value } | undefined;
  return () => {
    if (known === undefined || !isWatched(path)) {
      // Watched before it is read: what changes in between is read again.
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

/** By the directory, since a file that is replaced is another one. Where that cannot be watched nothing is remembered. */
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
    for (const name of listeners.keys()) tell(name);
  };
  const tell = (name: string): void => {
    // Each has to ask again, and listens again when it does.
    const told = listeners.get(name) ?? [];
    listeners.delete(name);
    for (const listener of told) listener();
  };
  try {
    const watcher = watch(directory, { persistent: false }, (_, name) => (name === null ? forget() : tell(name)));
    watcher.once("error", forget);
    const watched = { watcher, listeners };
    directories.set(directory, watched);
    return watched;
  } catch {
    return undefined;
  }
}
