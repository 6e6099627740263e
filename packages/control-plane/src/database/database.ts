import { open } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Kysely, sql, SqliteAdapter, SqliteDialect, type SqliteDatabase } from "kysely";
import type { Log } from "../log.ts";
import { newestCopy } from "./copies.ts";
import { type DatabaseLocation, describeDatabase } from "./database-server.ts";
import { migrate, type Migrations, ourMigrations, pendingMigrations } from "./migrate.ts";
import { postgresDialect } from "./postgres/postgres.ts";
import { sqliteDatabase } from "./sqlite.ts";
import type { Tables } from "./tables.ts";

export type Database = Kysely<Tables>;

export interface OpenDatabaseOptions {
  readonly log?: Log;
  /** For tests; default: this version's. */
  readonly migrations?: Migrations;
}

/**
 * Opens the database and migrates its tables. Several processes may share it. The file of an SQLite database is created
 * when missing, and copied beside itself before it is migrated; a PostgreSQL database must exist.
 * @throws `unavailable` for a database that is damaged or does not answer, and when a migration fails; then the database
 *   is unchanged
 */
export async function openDatabase(
  location: DatabaseLocation,
  { log, migrations = ourMigrations }: OpenDatabaseOptions = {},
): Promise<Database> {
  const database = await connectTo(location, log);
  try {
    if (typeof location === "string") await checkIntegrity(database, location);
    if ((await pendingMigrations(database, location, migrations)).length > 0) {
      await using unbounded = await openForLongStatements(database, location);
      await migrate(unbounded.database, { location, migrations, log });
    }
    return database;
  } catch (error) {
    await database.destroy();
    throw error;
  }
}

/** Opens a database that exists, without a check and without migrations. */
export async function openUnmigrated(location: DatabaseLocation): Promise<Database> {
  if (typeof location !== "string") return await connectTo(location, undefined);
  return new Kysely<Tables>({ dialect: dialectOf(await openFile(location, "r")) });
}

/** Opens another session, in which PostgreSQL's statements may take any time. SQLite bounds no statement. */
export async function openForLongStatements(
  database: Database,
  location: DatabaseLocation,
): Promise<{ readonly database: Database } & AsyncDisposable> {
  if (typeof location === "string") return { database, async [Symbol.asyncDispose]() {} };
  const own = new Kysely<Tables>({ dialect: await postgresDialect(location, undefined, "long") });
  return { database: own, [Symbol.asyncDispose]: () => own.destroy() };
}

async function connectTo(location: DatabaseLocation, log: Log | undefined): Promise<Database> {
  if (typeof location === "string") return new Kysely<Tables>({ dialect: dialectOf(await openFile(location)) });
  const database = new Kysely<Tables>({ dialect: await postgresDialect(location, log) });
  try {
    await sql`SELECT 1`.execute(database);
    return database;
  } catch (error) {
    await database.destroy();
    const reason = error instanceof Error ? error.message : String(error);
    const message = `cannot open the database ${describeDatabase(location)}: ${reason}`;
    throw new SandboxError("unavailable", message, { cause: error });
  }
}

/** Migrations run in one transaction: SQLite rolls back changes of tables too, although Kysely does not rely on it. */
class Adapter extends SqliteAdapter {
  override get supportsTransactionalDdl(): boolean {
    return true;
  }
}

function dialectOf(database: SqliteDatabase): SqliteDialect {
  const dialect = new SqliteDialect({ database });
  dialect.createAdapter = () => new Adapter();
  return dialect;
}

async function openFile(file: string, flags: "a" | "r" = "a"): Promise<SqliteDatabase> {
  try {
    // Created here because SQLite would make it readable for others. Its side files inherit these permissions.
    await (await open(file, flags, 0o600)).close();
    return sqliteDatabase(file);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const damaged = error instanceof Error && "errcode" in error && error.errcode === notADatabase;
    const advice = damaged ? `: ${await wayBack(file)}` : "";
    throw new SandboxError("unavailable", `cannot open the database ${file}: ${reason}${advice}`, { cause: error });
  }
}

/** @throws `unavailable` for a damaged database, with the way back */
async function checkIntegrity(database: Database, file: string): Promise<void> {
  const { rows } = await sql<{ quick_check: string }>`PRAGMA quick_check(1)`.execute(database);
  const found = rows[0]?.quick_check;
  if (found === "ok") return;
  throw new SandboxError("unavailable", `the database ${file} is damaged (${found}): ${await wayBack(file)}`);
}

// SQLITE_NOTADB, https://sqlite.org/rescode.html
const notADatabase = 26;

async function wayBack(file: string): Promise<string> {
  const copy = await newestCopy(file);
  const backup = copy === undefined ? "a backup" : `its newest copy by 'osb admin restore --force ${copy}'`;
  return `restore ${backup}, or move it away to start with an empty one`;
}
