import { open } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Kysely, sql, SqliteDialect, type SqliteDatabase } from "kysely";
import { Migrator } from "kysely/migration";
import * as first from "./migrations/0001-first.ts";
import * as snapshots from "./migrations/0002-snapshots.ts";
import * as serverKeys from "./migrations/0003-server-keys.ts";
import * as network from "./migrations/0004-network.ts";
import { sqliteDatabase } from "./sqlite.ts";
import type { Tables } from "./tables.ts";

export type Database = Kysely<Tables>;

/** Opens the database, creates it when missing and migrates its tables. Several processes may share it. */
export async function openDatabase(file: string): Promise<Database> {
  const database = new Kysely<Tables>({ dialect: new SqliteDialect({ database: await openFile(file) }) });
  try {
    await checkIntegrity(database, file);
    await migrate(database, file);
    return database;
  } catch (error) {
    await database.destroy();
    throw error;
  }
}

async function openFile(file: string): Promise<SqliteDatabase> {
  try {
    // Created here because SQLite would make it readable for others. Its side files inherit these permissions.
    await (await open(file, "a", 0o600)).close();
    return sqliteDatabase(file);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new SandboxError("unavailable", `cannot open the database ${file}: ${reason}`, { cause: error });
  }
}

async function checkIntegrity(database: Database, file: string): Promise<void> {
  const { rows } = await sql<{ quick_check: string }>`PRAGMA quick_check(1)`.execute(database);
  const found = rows[0]?.quick_check;
  if (found === "ok") return;
  throw new SandboxError(
    "unavailable",
    `the database ${file} is damaged (${found}): restore a backup, or move it away to start with an empty one`,
  );
}

async function migrate(database: Database, file: string): Promise<void> {
  const migrations = {
    "0001-first": first,
    "0002-snapshots": snapshots,
    "0003-server-keys": serverKeys,
    "0004-network": network,
  };
  const provider = { getMigrations: () => Promise.resolve(migrations) };
  const { error } = await new Migrator({ db: database, provider }).migrateToLatest();
  if (error === undefined) return;
  throw new SandboxError("unavailable", `cannot migrate the tables of ${file}`, { cause: error });
}
