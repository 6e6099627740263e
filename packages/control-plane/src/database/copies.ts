import { open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { sql, type Kysely } from "kysely";
import { appliedMigrations } from "./applied-migrations.ts";
import { sqliteDatabase } from "./sqlite.ts";
import type { Tables } from "./tables.ts";

// Copies of the database lie beside it: `opensandbox.sqlite.copy-0004-network` is its state with this migration as the
// last one, `opensandbox.sqlite.copy-daily` is at most a day old while a server runs.

const marker = ".copy-";
const dailyName = "daily";

/** Copies from before migrations that are kept, the newest ones. */
const maxCopies = 3;

/** Age from which {@link copyDaily} makes a new copy. */
const dailyMs = 24 * 3600 * 1000;

/**
 * Writes a consistent copy of the database to a new file, which only this user can read and which survives a power cut.
 * Other connections go on reading and writing meanwhile. A copy that `isWanted` refuses is removed.
 */
export async function copyDatabase(
  database: Kysely<Tables>,
  to: string,
  isWanted: (copy: string) => boolean = () => true,
): Promise<void> {
  const unfinished = `${to}.unfinished-${process.pid}`;
  await rm(unfinished, { force: true });
  try {
    // SQLite accepts an empty file, and would make a missing one readable for others.
    await (await open(unfinished, "wx", 0o600)).close();
    await sql`VACUUM INTO ${unfinished}`.execute(database);
    if (!isWanted(unfinished)) return await rm(unfinished);
    await flush(unfinished);
    await rename(unfinished, to);
    await flush(dirname(to));
  } catch (cause) {
    await rm(unfinished, { force: true });
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new SandboxError("unavailable", `cannot copy the database to ${to}: ${reason}`, { cause });
  }
}

/** Copies the database beside itself, and removes the oldest of too many copies. Returns the copy. */
export async function copyBeforeMigration(database: Kysely<Tables>, file: string): Promise<string> {
  const last = (await appliedMigrations(database)).at(-1);
  const copy = `${file}${marker}${last}`;
  // Another process may have migrated the database since, and has made its copy before.
  await copyDatabase(database, copy, (made) => read(made, "SELECT max(name) FROM kysely_migration") === last);
  const copies = (await listCopies(file)).filter(({ name }) => name !== dailyName);
  for (const { path } of copies.slice(maxCopies)) await rm(path, { force: true });
  return copy;
}

/** Renews the daily copy when it is a day old. */
export async function copyDaily(database: Kysely<Tables>, file: string, now: number): Promise<void> {
  const copy = `${file}${marker}${dailyName}`;
  const present = await stat(copy).catch(() => undefined);
  if (present !== undefined && Math.abs(now - present.mtimeMs) < dailyMs) return;
  await copyDatabase(database, copy);
}

/** The newest copy that SQLite can read. */
export async function newestCopy(file: string): Promise<string | undefined> {
  return (await listCopies(file)).find(({ path }) => isIntact(path))?.path;
}

/** The newest first. */
async function listCopies(file: string): Promise<readonly { readonly name: string; readonly path: string }[]> {
  const prefix = `${basename(file)}${marker}`;
  const names = (await readdir(dirname(file))).filter(
    (name) => name.startsWith(prefix) && !name.includes(".unfinished-"),
  );
  const copies = await Promise.all(
    names.map(async (entry) => {
      const path = join(dirname(file), entry);
      return { name: entry.slice(prefix.length), path, writtenAt: (await stat(path)).mtimeMs };
    }),
  );
  return copies.toSorted((a, b) => b.writtenAt - a.writtenAt);
}

function isIntact(file: string): boolean {
  try {
    return read(file, "PRAGMA quick_check(1)") === "ok";
  } catch {
    return false;
  }
}

/** The only column of the first row. */
function read(file: string, query: string): unknown {
  const database = sqliteDatabase(file, { readOnly: true });
  try {
    const [row] = database.prepare(query).all([]) as object[];
    return row === undefined ? undefined : Object.values(row)[0];
  } finally {
    database.close();
  }
}

async function flush(path: string): Promise<void> {
  await using file = await open(path);
  await file.sync();
}
