import { sql } from "kysely";
import { appliedMigrations } from "./applied-migrations.ts";
import { copyDatabase } from "./copies.ts";
import { type Database, openDatabase, openUnmigrated } from "./database.ts";

/** The parts of a database that a backup of it has to know. */
export interface DatabaseContents {
  /** The last migration. */
  readonly migration: string;
  readonly organizations: number;
  readonly apiKeys: number;
  readonly checkpoints: number;
  /** Sandboxes that consist of a snapshot. */
  readonly hibernated: number;
  /** Sandboxes whose disks are those of a machine, which no snapshot has. */
  readonly onlyInMachines: readonly { readonly id: string; readonly state: string }[];
  /** Snapshots of hibernated sandboxes and of checkpoints, those of images included. */
  readonly snapshots: readonly string[];
  /** Snapshots of sandboxes that are being hibernated, which may not exist yet. */
  readonly unfinished: readonly string[];
}

/**
 * Copies a database that servers may be using, of this version or an earlier one, to a new file. Returns what the copy
 * contains.
 */
export async function backUpDatabase(file: string, to: string): Promise<DatabaseContents> {
  {
    await using database = await openUnmigrated(file);
    await copyDatabase(database, to);
  }
  await using copy = await openUnmigrated(to);
  return await contentsOf(copy);
}

/**
 * Opens a file as a server of this version would, with integrity check and migrations, which changes the file.
 * @throws `unavailable` when this version cannot use it
 */
export async function tryDatabase(file: string): Promise<DatabaseContents> {
  await using database = await openDatabase(file);
  return await contentsOf(database);
}

async function contentsOf(database: Database): Promise<DatabaseContents> {
  const count = async (query: ReturnType<typeof sql<{ found: number }>>): Promise<number> =>
    (await query.execute(database)).rows[0]?.found ?? 0;
  const ids = async (query: ReturnType<typeof sql<{ id: string }>>): Promise<readonly string[]> =>
    (await query.execute(database)).rows.map(({ id }) => id);
  const hibernated = sql`FROM sandboxes WHERE state IN ('hibernated', 'waking') AND hibernation_snapshot_id IS NOT NULL`;
  const onlyInMachines = sql<{ id: string; state: string }>`
    SELECT id, state FROM sandboxes WHERE hidden = 0
    AND (state IN ('running', 'restarting', 'hibernating') OR (state = 'error' AND boots_on_use = 1)) ORDER BY id`;
  return {
    migration: (await appliedMigrations(database)).at(-1) ?? "",
    organizations: await count(sql`SELECT count(*) AS found FROM organizations`),
    apiKeys: await count(sql`SELECT count(*) AS found FROM api_keys`),
    checkpoints: await count(sql`SELECT count(*) AS found FROM checkpoints WHERE status = 'ready' AND hidden = 0`),
    hibernated: await count(sql`SELECT count(*) AS found ${hibernated}`),
    onlyInMachines: (await onlyInMachines.execute(database)).rows.map((row) => ({ ...row })),
    snapshots: await ids(
      sql`SELECT hibernation_snapshot_id AS id ${hibernated}
          UNION SELECT snapshot_id FROM checkpoints WHERE status = 'ready' ORDER BY id`,
    ),
    unfinished: await ids(
      sql`SELECT hibernation_snapshot_id AS id FROM sandboxes
          WHERE state = 'hibernating' AND hibernation_snapshot_id IS NOT NULL`,
    ),
  };
}
