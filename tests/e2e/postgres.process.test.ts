import assert from "node:assert/strict";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import type { DatabaseServer } from "../../packages/control-plane/src/database/database-server.ts";
import { PostgresForTest, withoutPostgres } from "../../packages/control-plane/src/testing/postgres-for-test.ts";
import { type EndedCli, firstOutput, startCli, type StartedCli } from "./cli.ts";

// Whole servers on PostgreSQL, with the fake hypervisor.

const program = [
  process.execPath,
  "--disable-warning=ExperimentalWarning",
  join(import.meta.dirname, "../../packages/cli/src/start.ts"),
] as const;

suite("servers on PostgreSQL", { skip: withoutPostgres }, () => {
  const stack = new AsyncDisposableStack();
  let postgres: PostgresForTest;
  let directory: string;

  before(async () => {
    postgres = stack.use(await PostgresForTest.start());
    directory = await mkdtemp(join(tmpdir(), "osb-postgres-"));
    await chmod(directory, 0o711);
    stack.defer(() => rm(directory, { recursive: true, force: true }));
  });
  after(() => stack.disposeAsync());

  interface Answer {
    readonly id: string;
    readonly key: string;
    readonly status: string;
    readonly tables: readonly { readonly table: string; readonly rows: number }[];
    readonly entries: readonly { readonly action: string; readonly status: number; readonly resource?: string }[];
  }

  function world(name: string, database: DatabaseServer | undefined) {
    const env = {
      OPENSANDBOX_VM_BACKEND: "fake",
      OPENSANDBOX_ALLOW_FAKE: "1",
      OPENSANDBOX_DATA_DIR: join(directory, name),
      XDG_CONFIG_HOME: join(directory, name, "config"),
      ...(database === undefined ? {} : { OPENSANDBOX_DATABASE_URL: database.url }),
    };
    const start = (...args: readonly string[]): StartedCli => startCli(program, args, { env, stdin: null });
    const osb = async (...args: readonly string[]): Promise<EndedCli> => await start(...args).ended;
    return {
      start,
      osb,
      json: async (...args: readonly string[]): Promise<Answer> => {
        const { code, stdout, stderr } = await osb("--json", ...args);
        assert.equal(code, 0, stderr);
        return JSON.parse(stdout.toString()) as Answer;
      },
    };
  }

  test("a server moves from SQLite to PostgreSQL with its sandboxes, keys and audit log", async () => {
    const before = world("move", undefined);
    const first = before.start("up", "--port", "0", "--json");
    await firstOutput(first);
    const { id } = await before.json("create", "--alias", "mine");
    const { key } = await before.json("admin", "key", "create", "ci", "--scopes", "sandboxes:read");
    const running = await before.osb("admin", "copy-database");
    assert.match(running.stderr, /set OPENSANDBOX_DATABASE_URL/);

    const database = await postgres.createDatabase();
    const after = world("move", database);
    assert.match((await after.osb("admin", "copy-database")).stderr, /a server runs on /);
    // The row stays that of a running sandbox: fake machines cannot be hibernated, so an orderly end would delete it.
    first.kill("SIGKILL");
    await first.ended;
    const { tables } = await after.json("admin", "copy-database");
    assert.ok(tables.find(({ table }) => table === "api_keys")?.rows === 2);
    assert.match((await after.osb("admin", "copy-database")).stderr, /has rows in the table/);

    const second = after.start("up", "--port", "0", "--json");
    await firstOutput(second);
    assert.equal((await after.json("get", id)).status, "error", "its machine ended with its server");
    await after.json("--api-key", key, "get", id);
    const refused = await after.osb("--api-key", key, "timeout", id, "600");
    assert.match(refused.stderr, /lacks the scope sandboxes:write/);
    const { id: next } = await after.json("create");
    await after.json("timeout", next, "600");
    const { entries } = await after.json("audit");
    assert.deepEqual(
      entries.slice(0, 3).map(({ action, status, resource }) => [action, status, resource]),
      [
        ["setIdleTimeout", 204, undefined],
        ["createSandbox", 200, next],
        ["setIdleTimeout", 403, undefined],
      ],
    );
    assert.ok(entries.some(({ action }) => action === "createApiKey"));

    const backup = await after.osb("admin", "backup", join(directory, "backup"));
    assert.equal(backup.code, 1);
    assert.match(backup.stderr, /pg_dump --format=custom/);
    second.kill("SIGTERM");
    assert.equal((await second.ended).code, 0);
  });

  test("a second server stands by, and takes over when the first one is killed", async () => {
    const database = await postgres.createDatabase();
    const { start, json } = world("standby", database);
    const first = start("up", "--port", "0", "--json");
    await firstOutput(first);
    const { id } = await json("create");

    const second = start("up", "--port", "0", "--json");
    const serving = firstOutput(second);
    await eventually("the second server stands by", () => second.stderr().includes("this one stands by"));
    assert.equal((await json("get", id)).status, "running");
    first.kill("SIGKILL");
    await first.ended;
    await within("the second server takes over", serving, 60_000);
    assert.equal((await json("get", id)).status, "error", "fake machines end with their server");
    const { id: next } = await json("create");
    await json("exec", next, "--", "true");
    second.kill("SIGTERM");
    assert.equal((await second.ended).code, 0);
  });

  test("a server survives a restart of PostgreSQL", async () => {
    const database = await postgres.createDatabase();
    const { start, json } = world("restart", database);
    const server = start("up", "--port", "0", "--json");
    await firstOutput(server);
    const { id } = await json("create");
    await postgres.restart();
    await json("timeout", id, "600");
    assert.equal((await json("get", id)).status, "running");
    server.kill("SIGTERM");
    assert.equal((await server.ended).code, 0);
  });
});
