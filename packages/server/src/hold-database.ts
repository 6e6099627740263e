import {
  acquireServerLease,
  type DatabaseLocation,
  joinServers,
  type ServerMembership,
} from "@opensandbox/control-plane";
import type { ServerConfig } from "./config.ts";
import { databaseLocation } from "./database-location.ts";
import { log } from "./log.ts";

/** The database of a server. A PostgreSQL database is this server's alone until it is disposed. */
export interface HeldDatabase extends AsyncDisposable {
  readonly location: DatabaseLocation;
}

/**
 * Waits until the database is free for this server.
 * @param leave ends this process and leaves its machines running, when another server may have taken the database
 */
export async function holdDatabase(
  config: Pick<ServerConfig, "dataDirectory" | "databaseUrl" | "databaseConnections">,
  leave: () => void,
  signal: AbortSignal,
): Promise<HeldDatabase> {
  const location = databaseLocation(config);
  // Processes of one host share the file.
  if (typeof location === "string") return { location, async [Symbol.asyncDispose]() {} };
  const lease = await acquireServerLease(location, { log }, signal);
  lease.lost.addEventListener("abort", () => {
    log("error", "this server ends, and leaves its machines running: it lost the lease of the database", {
      generation: lease.generation,
    });
    leave();
  });
  return { location: lease.database, [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose]() };
}

/** The database of a server of a fleet, which uses PostgreSQL together with others. */
export interface SharedDatabase extends HeldDatabase {
  /** Absent: the database is a file of this host. */
  readonly membership?: ServerMembership;
}

/**
 * Joins the servers that use the database, after a server that uses it alone has ended.
 * @param leave ends this process when the others may have taken over
 */
export async function shareDatabase(
  config: Pick<ServerConfig, "dataDirectory" | "databaseUrl" | "databaseConnections">,
  leave: () => void,
  signal: AbortSignal,
): Promise<SharedDatabase> {
  const location = databaseLocation(config);
  if (typeof location === "string") return { location, async [Symbol.asyncDispose]() {} };
  const membership = await joinServers(location, { log }, signal);
  membership.lost.addEventListener("abort", () => {
    log("error", "this server ends: the other servers of the database take over", { server: membership.id });
    leave();
  });
  return { location: membership.database, membership, [Symbol.asyncDispose]: () => membership[Symbol.asyncDispose]() };
}
