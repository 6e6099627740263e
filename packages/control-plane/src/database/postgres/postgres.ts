import { setTimeout as sleep } from "node:timers/promises";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import {
  type Kysely,
  PostgresAdapter,
  PostgresDialect,
  type PostgresPool,
  type PostgresPoolClient,
  type PostgresQueryResult,
} from "kysely";
import type { Client, PoolClient, PoolConfig } from "pg";
import type { Log } from "../../log.ts";
import { type DatabaseServer, serverLease, sessionName } from "../database-server.ts";
import { isLostConnection, translatePostgresError } from "./errors.ts";

/** PostgreSQL allows 100 connections by default, which several servers share. */
const defaultMaxConnections = 20;

/** A statement runs within milliseconds. This bound ends one that a lock or a broken host holds up. */
const statementMs = 30_000;

/** How long a statement waits for rows that another transaction has locked. */
const lockMs = 10_000;

/** PostgreSQL ends a transaction whose server stops in the middle, so that its locks become free. */
const idleInTransactionMs = 60_000;

/** Ends a statement on a connection whose peer has vanished silently. Exceeds {@link statementMs}. */
const answerMs = statementMs + 5000;

const bounds: PoolConfig = {
  query_timeout: answerMs,
  statement_timeout: statementMs,
  lock_timeout: lockMs,
  idle_in_transaction_session_timeout: idleInTransactionMs,
};

/** How long one attempt to connect, or the wait for a free connection, takes at most. */
const connectMs = 5000;

/** How long connecting is repeated, which covers a restart of PostgreSQL. */
const connectWithinMs = 15_000;

const connectAgainMs = 250;

/** The types whose values JavaScript has to read as numbers: `bigint`, and `numeric`, which sums of `bigint` have. */
const numberTypes: ReadonlySet<number> = new Set([20, 1700]);

/** Whether the database is PostgreSQL. SQLite is the other engine. */
export function isPostgres<Tables>(database: Kysely<Tables>): boolean {
  return database.getExecutor().adapter instanceof PostgresAdapter;
}

/**
 * Kysely's dialect over a bounded pool of connections of `pg`, which is loaded by this call. Statements of a migration,
 * and of a copy of a whole database, may take any time.
 */
export async function postgresDialect(
  server: DatabaseServer,
  log?: Log,
  statements: "bounded" | "long" = "bounded",
): Promise<PostgresDialect> {
  const { Pool } = await import("pg");
  const pool = new Pool({
    ...(await connectionConfig(server)),
    ...(statements === "long" ? { max: 1 } : { ...bounds, max: server.maxConnections ?? defaultMaxConnections }),
  });
  // The pool replaces the connection. Without this listener the event would end the process.
  pool.on("error", (error) => log?.("warn", "a connection to the database was lost", describeError(error)));
  return new PostgresDialect({ pool: new TranslatingPool(pool, server) });
}

/** A connection outside the pool, for a session that stays open, such as one that listens. */
export async function connectAlone(server: DatabaseServer): Promise<Client> {
  const { Client } = await import("pg");
  return new Client({ ...(await connectionConfig(server)), keepAliveInitialDelayMillis: 10_000 });
}

async function connectionConfig(server: DatabaseServer): Promise<PoolConfig> {
  const { types } = await import("pg");
  return {
    connectionString: server.url,
    application_name: sessionName(server),
    connectionTimeoutMillis: connectMs,
    keepAlive: true,
    types: {
      getTypeParser: (oid: number, format?: "text" | "binary") =>
        numberTypes.has(oid) ? Number : types.getTypeParser(oid, format),
    },
  };
}

/** Connects again while PostgreSQL restarts, and throws errors of the closed table. */
class TranslatingPool implements PostgresPool {
  readonly #pool: import("pg").Pool;
  readonly #server: DatabaseServer;
  readonly #connections = new WeakMap<PoolClient, Connection>();

  constructor(pool: import("pg").Pool, server: DatabaseServer) {
    this.#pool = pool;
    this.#server = server;
  }

  get options(): object {
    return this.#pool.options;
  }

  async connect(): Promise<PostgresPoolClient> {
    const deadline = performance.now() + connectWithinMs;
    for (;;) {
      try {
        const client = await this.#pool.connect();
        const known = this.#connections.get(client);
        if (known !== undefined) return known;
        await this.#requireLease(client);
        // Kysely knows a connection by this object.
        const made = new Connection(client);
        this.#connections.set(client, made);
        return made;
      } catch (error) {
        // Nothing was sent, so another attempt is safe.
        if (!isLostConnection(error) || performance.now() >= deadline) throw translatePostgresError(error);
        await sleep(connectAgainMs);
      }
    }
  }

  /** The next holder ends the sessions of this one, and this statement keeps new ones from beginning. */
  async #requireLease(client: PoolClient): Promise<void> {
    const { holder, member } = this.#server;
    if (holder === undefined) return;
    const isMember = member === undefined ? "" : " AND EXISTS (SELECT 1 FROM servers WHERE id = $3 AND ended = 0)";
    try {
      const held = await client.query(`SELECT 1 FROM leases WHERE name = $1 AND holder = $2${isMember}`, [
        serverLease,
        holder,
        ...(member === undefined ? [] : [member]),
      ]);
      if (held.rowCount === 1) return;
    } catch (error) {
      client.release(true);
      throw error;
    }
    client.release(true);
    throw new SandboxError("unavailable", "the database belongs to another server now");
  }

  end(): Promise<void> {
    return this.#pool.end();
  }
}

class Connection implements PostgresPoolClient {
  readonly #client: PoolClient;
  #isLost = false;

  constructor(client: PoolClient) {
    this.#client = client;
    // The pool listens only to idle connections. One that ends between two statements of a transaction would end the
    // process.
    client.on("error", () => {
      this.#isLost = true;
    });
  }

  query<R>(sql: string, parameters: readonly unknown[]): Promise<PostgresQueryResult<R>>;
  query(): never;
  async query<R>(sql?: string, parameters: readonly unknown[] = []): Promise<PostgresQueryResult<R>> {
    try {
      return (await this.#client.query(sql as string, [...parameters])) as unknown as PostgresQueryResult<R>;
    } catch (error) {
      this.#isLost ||= isLostConnection(error);
      throw translatePostgresError(error);
    }
  }

  release(destroy = false): void {
    this.#client.release(destroy || this.#isLost);
  }
}
