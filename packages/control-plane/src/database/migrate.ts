import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Kysely } from "kysely";
import { type Migration, Migrator } from "kysely/migration";
import type { Log } from "../log.ts";
import { appliedMigrations } from "./applied-migrations.ts";
import { copyBeforeMigration } from "./copies.ts";
import * as first from "./migrations/0001-first.ts";
import * as snapshots from "./migrations/0002-snapshots.ts";
import * as serverKeys from "./migrations/0003-server-keys.ts";
import * as network from "./migrations/0004-network.ts";
import * as domainProofs from "./migrations/0005-domain-proofs.ts";
import * as organizationNumbers from "./migrations/0006-organization-numbers.ts";
import * as fleet from "./migrations/0020-fleet.ts";
import * as events from "./migrations/0030-events.ts";
import * as webhooks from "./migrations/0031-webhooks.ts";
import * as lifetimes from "./migrations/0032-lifetimes.ts";
import * as sandboxLimits from "./migrations/0050-sandbox-limits.ts";
import type { Tables } from "./tables.ts";

/** By name; the names give the order. */
export type Migrations = Readonly<Record<string, Migration>>;

export const ourMigrations: Migrations = {
  "0001-first": first,
  "0002-snapshots": snapshots,
  "0003-server-keys": serverKeys,
  "0004-network": network,
  "0005-domain-proofs": domainProofs,
  "0006-organization-numbers": organizationNumbers,
  "0020-fleet": fleet,
  "0030-events": events,
  "0031-webhooks": webhooks,
  "0032-lifetimes": lifetimes,
  "0050-sandbox-limits": sandboxLimits,
};

export interface Migrate {
  readonly file: string;
  readonly migrations: Migrations;
  readonly log: Log | undefined;
}

/**
 * Brings the tables to this version. A database with rows is copied first. The migrations are one transaction: a failure
 * leaves the database as the earlier version wrote it.
 */
export async function migrate(database: Kysely<Tables>, { file, migrations, log }: Migrate): Promise<void> {
  const applied = await appliedMigrations(database);
  const unknown = applied.find((name) => !(name in migrations));
  if (unknown !== undefined) {
    throw new SandboxError(
      "unavailable",
      `the database ${file} belongs to a newer version (migration ${unknown}): start that version, or go back with ` +
        "the copy that it made before its migration: 'osb admin restore --force COPY'",
    );
  }
  const pending = Object.keys(migrations).filter((name) => !applied.includes(name));
  if (pending.length === 0) return;
  const copy = applied.length === 0 ? undefined : await copyBeforeMigration(database, file);
  if (copy !== undefined) {
    log?.("info", "the database is migrated; to go back to the earlier version, stop the server and restore the copy", {
      ...{ database: file, copy, migrations: pending },
      command: `osb admin restore --force ${copy}`,
    });
  }
  const provider = { getMigrations: () => Promise.resolve(migrations) };
  const { error, results } = await new Migrator({ db: database, provider }).migrateToLatest();
  if (error === undefined) return;
  const failed = results?.find(({ status }) => status === "Error")?.migrationName;
  const reason = (error as Error).message;
  const message =
    `cannot migrate the database ${file}${failed === undefined ? "" : ` (${failed})`}: ${reason}. ` +
    "The database is unchanged: start the earlier version to use it" +
    (copy === undefined ? "" : `. Its copy is ${copy}`);
  throw new SandboxError("unavailable", message, { cause: error });
}
