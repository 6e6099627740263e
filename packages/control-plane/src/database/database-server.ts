/** A PostgreSQL database. Absent options have the defaults of `postgres/postgres.ts`. */
export interface DatabaseServer {
  /** `postgres://user:password@host:port/name`, with the parameters of libpq such as `sslmode`. */
  readonly url: string;
  /** How many connections this process may hold. */
  readonly maxConnections?: number;
  /**
   * The holder of the lease. A session begins only while it holds the lease, and carries its name. Absent: no lease is
   * needed.
   */
  readonly holder?: string;
  /** One of the servers that hold the lease together. A session begins only while it is a member. */
  readonly member?: string;
}

/** The name of the lease that a server needs. A database has one. */
export const serverLease = "server";

/** The holder of the lease when several servers use the database together. */
export const groupHolder = "servers";

/** The name of sessions in `pg_stat_activity`. */
export function sessionName({ holder, member }: Pick<DatabaseServer, "holder" | "member">): string {
  if (holder === undefined) return "opensandbox";
  return `opensandbox ${holder}${member === undefined ? "" : `/${member}`}`;
}

/** The file of an SQLite database, or a PostgreSQL database. */
export type DatabaseLocation = string | DatabaseServer;

/** A location for messages and logs: without the password and the parameters of a URL. */
export function describeDatabase(location: DatabaseLocation): string {
  if (typeof location === "string") return location;
  // The text up to the last "@" may contain a password, whose special characters some users do not escape.
  return location.url.replace(/^([a-z]+:\/\/[^:/?@]*):.*@/, "$1@").replace(/\?.*$/s, "");
}
