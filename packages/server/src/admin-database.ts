import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  type CopiedTable,
  copyToServer,
  type DatabaseLocation,
  describeDatabase,
  type MigratedDatabase,
  migrateDatabase as migrate,
} from "@opensandbox/control-plane";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { hasLiveWorker, refuseDuringRestore } from "@opensandbox/worker";
import { databaseName } from "./backup/backup-manifest.ts";
import type { ServerConfig } from "./config.ts";
import { databaseLocation } from "./database-location.ts";
import { log } from "./log.ts";

/** Migrates the database that the settings name. @throws `invalid_argument` when the data directory has none */
export async function migrateDatabase(config: ServerConfig, dryRun: boolean): Promise<MigratedDatabase> {
  const location = requireDatabase(config);
  if (typeof location === "string") refuseDuringRestore(config.dataDirectory);
  return await migrate(location, { dryRun, log });
}

/** The database that the settings name. @throws `invalid_argument` when the data directory has none */
export function requireDatabase(config: ServerConfig): DatabaseLocation {
  const location = databaseLocation(config);
  if (typeof location === "string") requireFile(location, config);
  return location;
}

export interface CopiedDatabase {
  readonly from: string;
  /** The PostgreSQL database, without its password. */
  readonly to: string;
  readonly tables: readonly CopiedTable[];
}

/**
 * Copies the SQLite database of the data directory to the PostgreSQL database that the settings name.
 * @throws `invalid_argument` without either, `unavailable` while a server runs on the data directory
 */
export async function copyDatabase(
  config: ServerConfig,
  onProgress: (step: string) => void,
  signal: AbortSignal,
): Promise<CopiedDatabase> {
  const { dataDirectory } = config;
  const location = databaseLocation(config);
  if (typeof location === "string") {
    throw new SandboxError("invalid_argument", "set OPENSANDBOX_DATABASE_URL to the PostgreSQL database to copy to");
  }
  const from = join(dataDirectory, databaseName);
  requireFile(from, config);
  refuseDuringRestore(dataDirectory);
  if (await hasLiveWorker(dataDirectory)) {
    const message = `a server runs on ${dataDirectory}, and would go on writing to the file: stop it first`;
    throw new SandboxError("unavailable", message);
  }
  const tables = await copyToServer(from, location, onProgress, signal);
  return { from, to: describeDatabase(location), tables };
}

function requireFile(file: string, { dataDirectory }: ServerConfig): void {
  if (existsSync(file)) return;
  throw new SandboxError("invalid_argument", `${dataDirectory} has no database: set OPENSANDBOX_DATA_DIR`);
}
