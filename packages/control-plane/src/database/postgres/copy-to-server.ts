import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { sql } from "kysely";
import { copyDatabase } from "../copies.ts";
import { type Database, openDatabase, openForLongStatements, openUnmigrated } from "../database.ts";
import { type DatabaseServer, describeDatabase } from "../database-server.ts";

export interface CopiedTable {
  readonly table: string;
  readonly rows: number;
}

/** PostgreSQL takes 65,535 values in a statement, and a row of sandboxes has fewer than 60. */
const rowsAtOnce = 500;

/**
 * Copies every row of an SQLite database, of this version or an earlier one, to a PostgreSQL database that no server has used. One
 * transaction writes and counts them, so that a failure leaves the target empty. The file is not changed.
 * @throws `invalid_argument` when a server has used the target, `unavailable` when either database cannot be used
 */
export async function copyToServer(
  file: string,
  server: DatabaseServer,
  onProgress: (step: string) => void,
  signal: AbortSignal,
): Promise<readonly CopiedTable[]> {
  // Beside the file, where its user may write and others may not read.
  const directory = await mkdtemp(`${file}.to-postgres-`);
  const staged = join(directory, "opensandbox.sqlite");
  try {
    {
      await using original = await openUnmigrated(file);
      await copyDatabase(original, staged);
    }
    await using source = await openDatabase(staged);
    await using migrated = await openDatabase(server);
    await using target = await openForLongStatements(migrated, server);
    return await copyRows(source, { target: target.database, name: describeDatabase(server) }, onProgress, signal);
  } finally {
    await rm(directory, { recursive: true });
  }
}

async function copyRows(
  source: Database,
  { target, name }: { readonly target: Database; readonly name: string },
  onProgress: (step: string) => void,
  signal: AbortSignal,
): Promise<readonly CopiedTable[]> {
  const tables = await tablesOf(source);
  return await target.transaction().execute(async (transaction) => {
    for (const table of tables) {
      // Nothing else may add rows until the copy is complete.
      await sql`LOCK TABLE ${sql.table(table)} IN EXCLUSIVE MODE`.execute(transaction);
    }
    // The first start of a server makes an organization.
    if ((await countOf(transaction, "organizations")) > 0) {
      const message = `${name} has rows in the table organizations: create another database for the copy`;
      throw new SandboxError("invalid_argument", message);
    }
    // Migrations insert rows too; the source holds their present values.
    for (const table of tables.toReversed()) await sql`DELETE FROM ${sql.table(table)}`.execute(transaction);
    const copied: CopiedTable[] = [];
    for (const table of tables) {
      onProgress(`copying ${table}`);
      for (let after = 0; ;) {
        signal.throwIfAborted();
        const { rows } = await sql<Record<string, unknown>>`
          SELECT rowid AS "its rowid", * FROM ${sql.table(table)} WHERE rowid > ${after}
          ORDER BY rowid LIMIT ${sql.lit(rowsAtOnce)}`.execute(source);
        if (rows.length === 0) break;
        after = Number(rows.at(-1)?.["its rowid"]);
        for (const row of rows) delete row["its rowid"];
        await transaction
          .insertInto(table as "organizations")
          .values(rows as never)
          .execute();
      }
      const [rows, expected] = [await countOf(transaction, table), await countOf(source, table)];
      if (rows !== expected) {
        throw new SandboxError("internal", `the copy of the table ${table} has ${rows} rows instead of ${expected}`);
      }
      copied.push({ table, rows });
    }
    return copied;
  });
}

/** The tables of this version, each after those that it refers to. */
async function tablesOf(source: Database): Promise<readonly string[]> {
  const { rows } = await sql<{ name: string }>`
    SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'kysely_%'
    ORDER BY name`.execute(source);
  const ordered = new Set<string>();
  const add = async (name: string): Promise<void> => {
    if (ordered.has(name)) return;
    const { rows: references } = await sql<{ table: string }>`
      SELECT DISTINCT "table" FROM pragma_foreign_key_list(${name})`.execute(source);
    for (const { table } of references) if (table !== name) await add(table);
    ordered.add(name);
  };
  for (const { name } of rows) await add(name);
  return [...ordered];
}

async function countOf(database: Database, table: string): Promise<number> {
  const { rows } = await sql<{ count: number }>`SELECT count(*) AS count FROM ${sql.table(table)}`.execute(database);
  return rows[0]?.count ?? 0;
}
