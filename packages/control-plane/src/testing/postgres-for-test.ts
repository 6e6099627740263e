import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync, globSync } from "node:fs";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { eventually, eventOf } from "@opensandbox/wire/testing/eventually.ts";
import type { DatabaseServer } from "#database/database-server.ts";
import { connectAlone } from "#database/postgres/postgres.ts";

const run = promisify(execFile);

/** Debian's packages put each version into a directory of its own. The newest one is used. */
const programs = globSync("/usr/lib/postgresql/*/bin")
  .filter((directory) => existsSync(join(directory, "initdb")))
  .toSorted((a, b) => Number(a.split("/")[4]) - Number(b.split("/")[4]))
  .at(-1);

/** Why tests with PostgreSQL are skipped; false when it is installed. */
export const withoutPostgres = programs === undefined && "PostgreSQL is not installed: run ./test as root once";

/** PostgreSQL refuses to run as root. */
const nobody = 65_534;
const user = process.getuid?.() === 0 ? { uid: nobody, gid: nobody } : {};

/** A real PostgreSQL with data of its own, reachable by a socket in a temporary directory. Disposing it removes all of it. */
export class PostgresForTest implements AsyncDisposable {
  readonly directory: string;
  #process: ChildProcess | undefined;
  #databases = 0;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async start(): Promise<PostgresForTest> {
    // A path of a socket has at most 107 bytes, which the temporary directory of a test run may exceed.
    const directory = await mkdtemp(join(tmpdir().length < 60 ? tmpdir() : "/tmp", "osb-pg-"));
    const postgres = new PostgresForTest(directory);
    try {
      if (user.uid !== undefined) await chown(directory, user.uid, user.gid);
      const data = join(directory, "data");
      const options = ["--username=opensandbox", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"];
      await run(join(programs!, "initdb"), ["-D", data, ...options], { ...user, cwd: directory, timeout: 60_000 });
      await postgres.restart();
      return postgres;
    } catch (error) {
      await postgres[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Starts it again, after it was stopped if it runs. */
  async restart(): Promise<void> {
    await this.stop();
    const { directory } = this;
    // Without fsync: the data does not outlive the test.
    const settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=32MB"];
    const started = spawn(join(programs!, "postgres"), ["-D", join(directory, "data"), "-k", directory, ...settings], {
      ...user,
      cwd: directory,
      stdio: ["ignore", "ignore", "pipe"],
    });
    let output = "";
    started.stderr.setEncoding("utf8").on("data", (text: string) => (output += text));
    this.#process = started;
    await eventually("PostgreSQL accepts connections", async () => {
      if (started.exitCode !== null) throw new Error(`PostgreSQL has ended: ${output}`);
      try {
        await this.execute("SELECT 1");
        return true;
      } catch {
        return false;
      }
    });
  }

  /** Ends it, and with it all sessions. */
  async stop(): Promise<void> {
    const running = this.#process;
    if (running === undefined) return;
    this.#process = undefined;
    if (running.exitCode !== null || running.signalCode !== null) return;
    const exit = eventOf(running, "exit", 30_000);
    // The fast shutdown: https://www.postgresql.org/docs/current/server-shutdown.html
    running.kill("SIGINT");
    await exit;
  }

  /** An empty database. */
  async createDatabase(): Promise<DatabaseServer> {
    this.#databases += 1;
    const name = `test${this.#databases}`;
    await this.execute(`CREATE DATABASE ${name}`);
    return this.#database(name);
  }

  /** Runs a statement in a session of its own, by default in the database of administrators. */
  async execute(statement: string, database: DatabaseServer = this.#database("postgres")): Promise<object[]> {
    const client = await connectAlone(database);
    try {
      await client.connect();
      return (await client.query(statement)).rows as object[];
    } finally {
      await client.end();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await rm(this.directory, { recursive: true, force: true });
  }

  #database(name: string): DatabaseServer {
    return { url: `postgres://opensandbox@localhost/${name}?host=${this.directory}`, maxConnections: 5 };
  }
}
