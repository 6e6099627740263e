import { join } from "node:path";
import type { DatabaseLocation } from "@opensandbox/control-plane";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ServerConfig } from "./config.ts";
import { databaseName } from "./backup/backup-manifest.ts";

type Config = Pick<ServerConfig, "dataDirectory" | "databaseConnections"> & {
  readonly databaseUrl?: string | undefined;
};

/** The database that the settings name: PostgreSQL, or else the file in the data directory. */
export function databaseLocation({ dataDirectory, databaseUrl, databaseConnections }: Config): DatabaseLocation {
  if (databaseUrl === undefined) return join(dataDirectory, databaseName);
  return { url: databaseUrl, maxConnections: databaseConnections };
}

/** @throws `not_supported` for PostgreSQL, which has tools of its own for backups */
export function requireFileDatabase({ databaseUrl }: Pick<ServerConfig, "databaseUrl">): void {
  if (databaseUrl === undefined) return;
  throw new SandboxError(
    "not_supported",
    "the database is PostgreSQL (OPENSANDBOX_DATABASE_URL): back it up with 'pg_dump --format=custom' and restore it with " +
      "'pg_restore', and copy the directory 'snapshots' of the data directory after the dump",
  );
}
