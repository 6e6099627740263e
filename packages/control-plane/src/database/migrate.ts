import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Kysely } from "kysely";
import { type Migration, Migrator } from "kysely/migration";
import type { Log } from "../log.ts";
import { appliedMigrations } from "./applied-migrations.ts";
import { copyBeforeMigration } from "./copies.ts";
import { type DatabaseLocation, describeDatabase } from "./database-server.ts";
import * as first from "./migrations/0001-first.ts";
import * as snapshots from "./migrations/0002-snapshots.ts";
import * as serverKeys from "./migrations/0003-server-keys.ts";
import * as network from "./migrations/0004-network.ts";
import * as domainProofs from "./migrations/0005-domain-proofs.ts";
import * as organizationNumbers from "./migrations/0006-organization-numbers.ts";
import * as keys from "./migrations/0007-keys.ts";
import * as audit from "./migrations/0008-audit.ts";
import * as leases from "./migrations/0009-leases.ts";
import * as fleet from "./migrations/0020-fleet.ts";
import * as events from "./migrations/0030-events.ts";
import * as webhooks from "./migrations/0031-webhooks.ts";
import * as lifetimes from "./migrations/0032-lifetimes.ts";
import * as sandboxLimits from "./migrations/0050-sandbox-limits.ts";
import * as uploads from "./migrations/0060-uploads.ts";
import * as sshKeys from "./migrations/ssh/0061-ssh-keys.ts";
import * as sandboxEnds from "./migrations/sandboxes/0062-sandbox-ends.ts";
import * as servers from "./migrations/servers/0070-servers.ts";
import * as sandboxesByWorker from "./migrations/servers/0071-sandboxes-by-worker.ts";
import * as secrets from "./migrations/secrets/0080-secrets.ts";
import * as sandboxSecrets from "./migrations/secrets/0081-sandbox-secrets.ts";
import * as measuredUse from "./migrations/usage/0082-measured-use.ts";
import * as templates from "./migrations/templates/0090-templates.ts";
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
  "0007-keys": keys,
  "0008-audit": audit,
  "0009-leases": leases,
  "0020-fleet": fleet,
  "0030-events": events,
  "0031-webhooks": webhooks,
  "0032-lifetimes": lifetimes,
  "0050-sandbox-limits": sandboxLimits,
  "0060-uploads": uploads,
  "0061-ssh-keys": sshKeys,
  "0062-sandbox-ends": sandboxEnds,
  "0070-servers": servers,
  "0071-sandboxes-by-worker": sandboxesByWorker,
  "0080-secrets": secrets,
  "0081-sandbox-secrets": sandboxSecrets,
  "0082-measured-use": measuredUse,
  "0090-templates": templates,
};

export interface Migrate {
  readonly location: DatabaseLocation;
  readonly migrations: Migrations;
  readonly log: Log | undefined;
}

/** The migrations that a database lacks, in their order. @throws `unavailable` for a database of a newer version */
export async function pendingMigrations(
  database: Kysely<Tables>,
  location: DatabaseLocation,
  migrations: Migrations = ourMigrations,
): Promise<readonly string[]> {
  const applied = await appliedMigrations(database);
  const unknown = applied.find((name) => !(name in migrations));
  if (unknown !== undefined) {
    const back =
      typeof location === "string"
        ? "the copy that it made before its migration: 'osb admin restore --force COPY'"
        : "a dump from before its migration: see pg_restore";
    throw new SandboxError(
      "unavailable",
      `the database ${describeDatabase(location)} belongs to a newer version (migration ${unknown}): start that version, ` +
        `or go back with ${back}`,
    );
  }
  return Object.keys(migrations).filter((name) => !applied.includes(name));
}

/**
 * Brings the tables to this version. An SQLite database with rows is copied first. The migrations are one transaction: a
 * failure leaves the database as the earlier version wrote it.
 */
export async function migrate(database: Kysely<Tables>, { location, migrations, log }: Migrate): Promise<void> {
  const pending = await pendingMigrations(database, location, migrations);
  if (pending.length === 0) return;
  const isNew = (await appliedMigrations(database)).length === 0;
  const name = describeDatabase(location);
  const copy = isNew || typeof location !== "string" ? undefined : await copyBeforeMigration(database, location);
  if (copy !== undefined) {
    log?.("info", "the database is migrated; to go back to the earlier version, stop the server and restore the copy", {
      ...{ database: name, copy, migrations: pending },
      command: `osb admin restore --force ${copy}`,
    });
  } else if (!isNew) {
    log?.("info", "the database is migrated: the earlier version needs a dump from before the migration", {
      ...{ database: name, migrations: pending },
    });
  }
  const provider = { getMigrations: () => Promise.resolve(migrations) };
  const { error, results } = await new Migrator({
    db: database,
    provider,
    // Parts of the server have ranges of numbers, so a later migration may have an earlier number.
    allowUnorderedMigrations: true,
  }).migrateToLatest();
  if (error === undefined) return;
  const failed = results?.find(({ status }) => status === "Error")?.migrationName;
  const reason = (error as Error).message;
  const message =
    `cannot migrate the database ${name}${failed === undefined ? "" : ` (${failed})`}: ${reason}. ` +
    "The database is unchanged: start the earlier version to use it" +
    (copy === undefined ? "" : `. Its copy is ${copy}`);
  throw new SandboxError("unavailable", message, { cause: error });
}
