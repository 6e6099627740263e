import { DatabaseSync, type SQLInputValue } from "node:sqlite";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SqliteDatabase, SqliteStatement } from "kysely";

/** Node's own SQLite with the face that Kysely's SQLite dialect expects. */
export function sqliteDatabase(file: string): SqliteDatabase {
  const database = new DatabaseSync(file, { timeout: busyTimeoutMs });
  try {
    // WAL: readers of other processes go on while one writes. FULL: what was acknowledged survives a power cut.
    database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON");
  } catch (error) {
    database.close();
    throw error;
  }
  const known = new Map<string, SqliteStatement>();
  const prepare = (sql: string): SqliteStatement => {
    const found = known.get(sql);
    if (found !== undefined) return found;
    // Lists of any length make texts of any number.
    if (known.size >= maxStatements) known.clear();
    const made = statement(database, sql);
    known.set(sql, made);
    return made;
  };
  return { prepare, close: () => database.close() };
}

/** So many are kept prepared: every command looks its sandbox and its key up, by the same few. */
const maxStatements = 256;

// Another process holds the write lock for one short transaction at a time.
const busyTimeoutMs = 5000;

function statement(database: DatabaseSync, sql: string): SqliteStatement {
  // A transaction that reads first could not become a writer after another process has written.
  const prepared = translated(() => database.prepare(sql === "begin" ? "begin immediate" : sql));
  return {
    reader: prepared.columns().length > 0,
    all: (parameters) => translated(() => prepared.all(...(parameters as SQLInputValue[]))),
    run: (parameters) => translated(() => prepared.run(...(parameters as SQLInputValue[]))),
    // Others may use the prepared one between two rows.
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
