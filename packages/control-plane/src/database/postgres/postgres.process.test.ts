import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { sql } from "kysely";
import { within } from "@opensandbox/wire/testing/eventually.ts";
import { PostgresForTest, withoutPostgres } from "#testing/postgres-for-test.ts";
import { appliedMigrations } from "../applied-migrations.ts";
import { type Database, openDatabase } from "../database.ts";
import type { DatabaseServer } from "../database-server.ts";
import { type Migrations, ourMigrations } from "../migrate.ts";
import { inTransaction } from "../transaction.ts";

suite("a PostgreSQL database", { skip: withoutPostgres }, () => {
  const stack = new AsyncDisposableStack();
  let postgres: PostgresForTest;

  before(async () => {
    postgres = stack.use(await PostgresForTest.start());
  });
  after(() => stack.disposeAsync());

  const addTable = (name: string): Migrations[string] => ({
    up: (db) => db.schema.createTable(name).addColumn("id", "text").execute(),
  });

  test("the migrations make the same tables, columns, defaults and indexes on both engines", async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "osb-schema-"));
    t.after(() => rm(directory, { recursive: true }));
    await using sqlite = await openDatabase(join(directory, "opensandbox.sqlite"));
    await using other = await openDatabase(await postgres.createDatabase());
    const expected = await sqliteSchema(sqlite);
    assert.ok(expected.length > 80, `${expected.length}`);
    assert.deepEqual(await postgresSchema(other), expected);
    assert.deepEqual(await appliedMigrations(other), await appliedMigrations(sqlite));
  });

  test("servers that open a new database at once migrate it once", async () => {
    const server = await postgres.createDatabase();
    const opened = await Promise.all(Array.from({ length: 4 }, () => openDatabase(server)));
    for (const database of opened) {
      assert.deepEqual(await appliedMigrations(database), Object.keys(ourMigrations));
      await database.destroy();
    }
  });

  test("a migration that fails leaves the database unchanged", async () => {
    const server = await postgres.createDatabase();
    await (await openDatabase(server)).destroy();
    const half: Migrations[string] = {
      up: async (db) => {
        await addTable("half").up(db);
        throw new Error("the second half failed");
      },
    };
    const migrations = { ...ourMigrations, "9998-whole": addTable("whole"), "9999-half": half };
    await assert.rejects(openDatabase(server, { migrations }), {
      code: "unavailable",
      message:
        /cannot migrate the database postgres:\/\/opensandbox@localhost\/test\d+ \(9999-half\): the second half failed/,
    });
    await using database = await openDatabase(server);
    const { rows } =
      await sql`SELECT 1 WHERE to_regclass('half') IS NOT NULL OR to_regclass('whole') IS NOT NULL`.execute(database);
    assert.deepEqual(rows, []);
  });

  test("a database of a newer version is refused", async () => {
    const server = await postgres.createDatabase();
    await (await openDatabase(server, { migrations: { ...ourMigrations, "9999-later": addTable("later") } })).destroy();
    await assert.rejects(openDatabase(server), /belongs to a newer version \(migration 9999-later\).*pg_restore/);
  });

  test("the error about a missing database does not contain the password", async () => {
    const { url } = await postgres.createDatabase();
    const missing = { url: url.replace("opensandbox@", "opensandbox:se@cret@").replace(/test\d+/, "missing") };
    await assert.rejects(openDatabase(missing), (error: Error) => {
      assert.match(error.message, /^cannot open the database postgres:\/\/opensandbox@localhost\/missing: /);
      assert.ok(!error.message.includes("cret"), error.message);
      return true;
    });
  });

  test("bigint, counts and sums are numbers", async () => {
    await using database = await openDatabase(await postgres.createDatabase());
    const { rows } =
      await sql`SELECT count(*) AS a, sum(x) AS b, max(x) AS c FROM (VALUES (${2 ** 40}::bigint)) AS t (x)`.execute(
        database,
      );
    assert.deepEqual(rows, [{ a: 1, b: 2 ** 40, c: 2 ** 40 }]);
  });

  test("every session bounds statements, waits for locks and idle transactions", async () => {
    await using database = await openDatabase(await postgres.createDatabase());
    for (const [name, value] of [
      ["statement_timeout", "30s"],
      ["lock_timeout", "10s"],
      ["idle_in_transaction_session_timeout", "1min"],
    ]) {
      const { rows } = await sql<{ value: string }>`SELECT current_setting(${name}) AS value`.execute(database);
      assert.equal(rows[0]?.value, value);
    }
  });

  test("a statement that takes too long ends as unavailable", async () => {
    await using database = await openDatabase(await postgres.createDatabase());
    const slow = inTransaction(database, async (transaction) => {
      await sql`SET LOCAL statement_timeout = 50`.execute(transaction);
      await sql`SELECT pg_sleep(20)`.execute(transaction);
    });
    await assert.rejects(slow, { code: "unavailable", message: /a statement took too long/ });
  });

  test("transactions that block each other are repeated until both have succeeded", async () => {
    const server = await postgres.createDatabase();
    await using database = await openDatabase(server);
    for (const id of ["a", "b"]) {
      await database.insertInto("organizations").values({ id, name: "0", created_at: 0 }).execute();
    }
    let attempts = 0;
    const bothIn = async (order: readonly string[]): Promise<void> =>
      inTransaction(database, async (transaction) => {
        attempts += 1;
        for (const id of order) {
          await sql`UPDATE organizations SET created_at = created_at + 1 WHERE id = ${id}`.execute(transaction);
          await sleep(100);
        }
      });
    await Promise.all([bothIn(["a", "b"]), bothIn(["b", "a"])]);
    assert.ok(attempts > 2, `${attempts}`);
    const rows = await database.selectFrom("organizations").select("created_at").execute();
    assert.deepEqual(rows, [{ created_at: 2 }, { created_at: 2 }]);
  });

  test("the pool never exceeds its maximum of connections", async () => {
    const server: DatabaseServer = { ...(await postgres.createDatabase()), maxConnections: 3 };
    await using database = await openDatabase(server);
    await Promise.all(Array.from({ length: 12 }, () => sql`SELECT pg_sleep(0.05)`.execute(database)));
    const { rows } = await sql<{ count: number }>`
      SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'`.execute(
      database,
    );
    assert.equal(rows[0]?.count, 3);
  });

  test("a call whose session is ended fails as unavailable, and later calls succeed", async () => {
    const server = await postgres.createDatabase();
    await using database = await openDatabase(server);
    const waiting = sql`SELECT pg_sleep(20)`.execute(database);
    const failed = assert.rejects(waiting, { code: "unavailable", message: /the database cannot be used: / });
    await sleep(200);
    const ended = await postgres.execute(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(20)%' AND pid <> pg_backend_pid()",
    );
    assert.equal(ended.length, 1);
    await within("the ended session is reported", failed);
    await sql`SELECT 1`.execute(database);
  });

  test("a call during a restart of PostgreSQL waits for it and succeeds", async () => {
    const own = await PostgresForTest.start();
    try {
      const server = await own.createDatabase();
      await using database = await openDatabase(server);
      await own.stop();
      const call = inTransaction(database, async (transaction) => {
        await transaction.insertInto("organizations").values({ id: "a", name: "a", created_at: 0 }).execute();
      });
      await sleep(500);
      await own.restart();
      await within("the call succeeds", call);
      assert.equal((await database.selectFrom("organizations").selectAll().execute()).length, 1);
    } finally {
      await own[Symbol.asyncDispose]();
    }
  });
});

/** Columns and indexes as lines. The engines' names of types and of indexes for constraints are left out. */
async function sqliteSchema(database: Database): Promise<readonly string[]> {
  const { rows: tables } = await sql<{ name: string }>`
    SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'kysely_%'`.execute(
    database,
  );
  const lines: string[] = [];
  for (const { name } of tables) {
    const { rows: columns } = await sql<SqliteColumn>`SELECT * FROM pragma_table_info(${name})`.execute(database);
    for (const column of columns) {
      lines.push(columnLine(name, column.name, column.type, column.notnull === 1 || column.pk > 0, column.dflt_value));
    }
    const { rows: indexes } = await sql<SqliteIndex>`SELECT * FROM pragma_index_list(${name})`.execute(database);
    for (const index of indexes) {
      const { rows: parts } = await sql<{ name: string }>`
        SELECT name FROM pragma_index_info(${index.name}) ORDER BY seqno`.execute(database);
      lines.push(
        indexLine(
          name,
          parts.map((part) => part.name),
          index.unique === 1,
          index.partial === 1,
        ),
      );
    }
    const { rows: references } = await sql<{ from: string; table: string; to: string }>`
      SELECT * FROM pragma_foreign_key_list(${name})`.execute(database);
    for (const { from, table, to } of references) lines.push(`${name}.${from} -> ${table}.${to}`);
  }
  return lines.toSorted();
}

interface SqliteColumn {
  readonly name: string;
  readonly type: string;
  readonly notnull: number;
  readonly dflt_value: string | null;
  readonly pk: number;
}

interface SqliteIndex {
  readonly name: string;
  readonly unique: number;
  readonly partial: number;
}

async function postgresSchema(database: Database): Promise<readonly string[]> {
  const { rows: columns } = await sql<
    Record<"table_name" | "column_name" | "data_type" | "is_nullable", string> & { column_default: string | null }
  >`
    SELECT * FROM information_schema.columns WHERE table_schema = current_schema() AND table_name NOT LIKE 'kysely_%'`.execute(
    database,
  );
  const { rows: indexes } = await sql<{ table: string; columns: string[]; unique: boolean; partial: boolean }>`
    SELECT t.relname AS table, i.indisunique AS unique, i.indpred IS NOT NULL AS partial,
      ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k (number, at)
            JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number ORDER BY k.at) AS columns
    FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = current_schema() AND t.relname NOT LIKE 'kysely_%'`.execute(database);
  const { rows: references } = await sql<Record<"table" | "column" | "to_table" | "to_column", string>>`
    SELECT c.conrelid::regclass::text AS table, a.attname AS column, c.confrelid::regclass::text AS to_table,
      b.attname AS to_column
    FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
    JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = c.confkey[1] WHERE c.contype = 'f'`.execute(
    database,
  );
  return [
    ...columns.map((column) =>
      columnLine(
        column.table_name,
        column.column_name,
        column.data_type,
        column.is_nullable === "NO",
        column.column_default?.replace(/::\w+$/, "") ?? null,
      ),
    ),
    ...indexes.map((index) => indexLine(index.table, index.columns, index.unique, index.partial)),
    ...references.map(({ table, column, to_table, to_column }) => `${table}.${column} -> ${to_table}.${to_column}`),
  ].toSorted();
}

function columnLine(table: string, name: string, type: string, required: boolean, preset: string | null): string {
  return `${table}.${name} ${type.toLowerCase()}${required ? " required" : ""}${preset === null ? "" : ` = ${preset}`}`;
}

function indexLine(table: string, columns: readonly string[], unique: boolean, partial: boolean): string {
  return `${table} (${columns.join(", ")})${unique ? " unique" : ""}${partial ? " partial" : ""}`;
}
