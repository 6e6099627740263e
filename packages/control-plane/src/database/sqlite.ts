import { DatabaseSync, type SQLInputValue } from "node:sqlite";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SqliteDatabase, SqliteStatement } from "kysely";

/** Node's SQLite behind the interface of Kysely's SQLite dialect. */
export function sqliteDatabase(file: string, { readOnly = false } = {}): SqliteDatabase {
  const database = new DatabaseSync(file, { timeout: busyTimeoutMs, readOnly });
  try {
    // WAL: other processes read while one writes. FULL: a committed transaction survives a power cut.
    if (!readOnly) database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON");
  } catch (error) {
    database.close();
    throw error;
  }
  const known = new Map<string, SqliteStatement>();
  const prepare = (sql: string): SqliteStatement => {
    const found = known.get(sql);
    if (found !== undefined) return found;
    // Lists of different lengths make different statements.
    if (known.size >= maxStatements) known.clear();
    const made = statement(database, sql);
    known.set(sql, made);
    return made;
  };
  return { prepare, close: () => database.close() };
}

/** Prepared statements to keep: every request looks up its key and its sandbox by the same few. */
const maxStatements = 256;

// Another process holds the write lock for one short transaction at a time.
const busyTimeoutMs = 5000;

function statement(database: DatabaseSync, sql: string): SqliteStatement {
  // A transaction that begins as a reader cannot become a writer after another process has written.
  const prepared = translated(() => database.prepare(sql === "begin" ? "begin immediate" : sql));
  return {
    reader: prepared.columns().length > 0,
    all: (parameters) => translated(() => prepared.all(...(parameters as SQLInputValue[]))),
    run: (parameters) => translated(() => prepared.run(...(parameters as SQLInputValue[]))),
    // A statement of its own: the prepared one may be used between two rows.
    iterate: (parameters) => database.prepare(sql).iterate(...(parameters as SQLInputValue[])),
  };
}

function translated<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    const reason = notOurFault.get(errorCodeOf(error) & 0xff);
    if (reason === undefined) throw error;
    throw new SandboxError("unavailable", `the database cannot be used: ${reason}`, { cause: error });
  }
}

function errorCodeOf(error: unknown): number {
  return error instanceof Error && "errcode" in error && typeof error.errcode === "number" ? error.errcode : 0;
}

// Primary result codes, https://sqlite.org/rescode.html
const notOurFault = new Map([
  [5, "another process holds its lock"],
  [8, "it is read-only"],
  [10, "reading or writing its file failed"],
  [11, "its file is damaged"],
  [13, "the disk is full"],
  [14, "its file cannot be opened"],
]);
