import { createHash } from "node:crypto";
import { mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { filesBelow } from "#host/storage/disk-use.ts";
import { liveWorkers } from "#host/worker-lock.ts";
import { namesIn } from "#host/storage/names-in.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "#host/log.ts";
import type { CacheDirectories } from "./cache-directories.ts";

// Machines and snapshots have hard links to the files of a cache, which keep the content. Where a hard link is impossible
// they have symbolic links, and then a cache must know the data directories whose machines use it.

/** Holds a file for each data directory whose machines use a cache by symbolic links. */
const usersDirectory = ".users";

/** A data directory that does not exist may be on a disk that is not mounted. After a week it counts as removed. */
const goneMs = 7 * 24 * 3_600_000;

/**
 * Makes the data directory known to the caches that its machines use by symbolic links. Disposing the result withdraws
 * it when neither a machine nor a snapshot is left.
 */
export async function registerSymbolicUser(directories: CacheDirectories, log: Log): Promise<AsyncDisposable> {
  const { dataDirectory, imagesDirectory, templatesDirectory } = directories;
  const registered: string[] = [];
  for (const cache of [imagesDirectory, templatesDirectory]) {
    if (!(await needsSymbolicLinks(dataDirectory, cache))) continue;
    const users = join(cache, usersDirectory);
    const name = createHash("sha256").update(dataDirectory).digest("hex").slice(0, 16);
    try {
      await mkdir(users, { recursive: true, mode: 0o755 });
      await writeFile(join(users, name), `${dataDirectory}\n`, { mode: 0o644 });
      registered.push(join(users, name));
    } catch (error) {
      log(
        "warn",
        "cannot register as a user of a cache on another file system or of another user: its owner's collector may " +
          "remove files that sandboxes here use. Set OPENSANDBOX_IMAGES_DIR and OPENSANDBOX_TEMPLATES_DIR to directories " +
          "of your own",
        { cache, ...describeError(error) },
      );
    }
  }
  return {
    async [Symbol.asyncDispose]() {
      // Another worker on the data directory relies on the registration. This one still holds its own lock.
      if ((await liveWorkers(join(dataDirectory, "workers"))).length > 1) return;
      const kept = await Promise.all(["machines", "snapshots"].map((part) => namesIn(join(dataDirectory, part))));
      if (kept.flat().length === 0) for (const file of registered) await rm(file, { force: true });
    },
  };
}

/** The users of a cache by symbolic links. */
export interface SymbolicUsers {
  /** Targets of the links of their machines and snapshots. */
  readonly targets: readonly string[];
  /** Data directories whose links are unknown: every item of the cache may be in use. */
  readonly unreadable: readonly UnreadableUser[];
}

/** A registered data directory that cannot be found or read. */
export interface UnreadableUser {
  readonly dataDirectory: string;
  /** The error of the file system. `ENOENT`: the directory is removed, or on a disk that is not mounted. */
  readonly cause: NodeJS.ErrnoException;
}

/**
 * Reads every data directory that is registered with the cache. The registration of a directory that does not exist
 * ends after a week. That of a directory which answers with another error, such as `EIO` or `EACCES`, never ends.
 */
export async function symbolicUsersOf(cache: string): Promise<SymbolicUsers> {
  const targets: string[] = [];
  const unreadable: UnreadableUser[] = [];
  for (const name of await namesIn(join(cache, usersDirectory))) {
    const file = join(cache, usersDirectory, name);
    const dataDirectory = (await readFile(file, "utf8")).trim();
    try {
      targets.push(...(await linkTargetsIn(dataDirectory)));
    } catch (error) {
      const cause = error as NodeJS.ErrnoException;
      const isGone = cause.code === "ENOENT" && Date.now() - (await stat(file)).mtimeMs > goneMs;
      if (isGone) await rm(file, { force: true });
      else unreadable.push({ dataDirectory, cause });
    }
  }
  return { targets, unreadable };
}

/** @throws the error of the file system, `ENOENT` for a data directory that does not exist */
async function linkTargetsIn(dataDirectory: string): Promise<readonly string[]> {
  await stat(dataDirectory);
  const parts = ["machines", "snapshots"].map((part) => filesBelow(join(dataDirectory, part)));
  return (await Promise.all(parts)).flat().flatMap(({ target }) => target ?? []);
}

/** Whether a file of the cache cannot get a hard link in the data directory (EXDEV, or protected_hardlinks in proc_sys_fs(5)). */
async function needsSymbolicLinks(dataDirectory: string, cache: string): Promise<boolean> {
  const there = await stat(cache).catch(() => undefined);
  // A cache that does not exist yet is made by this user, on the file system of its parent.
  if (there === undefined) return (await deviceOfParent(cache)) !== (await stat(dataDirectory)).dev;
  const { dev } = await stat(dataDirectory);
  const user = process.geteuid?.();
  return there.dev !== dev || (user !== 0 && there.uid !== user);
}

async function deviceOfParent(path: string): Promise<number> {
  const parent = join(path, "..");
  const there = await stat(parent).catch(() => undefined);
  return there?.dev ?? (await deviceOfParent(parent));
}
