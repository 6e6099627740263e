import assert from "node:assert/strict";
import { copyFile, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { copyToServer } from "../../packages/control-plane/src/database/postgres/copy-to-server.ts";
import { type Database, openDatabase } from "../../packages/control-plane/src/database/database.ts";
import { migrateDatabase } from "../../packages/control-plane/src/database/migrate-database.ts";
import { PostgresForTest, withoutPostgres } from "../../packages/control-plane/src/testing/postgres-for-test.ts";
import { releases } from "./releases.ts";

const never = new AbortController().signal;

suite("the copy of an SQLite database to PostgreSQL", { skip: withoutPostgres }, () => {
  const stack = new AsyncDisposableStack();
  let postgres: PostgresForTest;
  let directory: string;

  before(async () => {
    postgres = stack.use(await PostgresForTest.start());
    directory = await mkdtemp(join(tmpdir(), "osb-to-postgres-"));
    stack.defer(() => rm(directory, { recursive: true }));
  });
  after(() => stack.disposeAsync());

  async function rowsOf(database: Database, table: string): Promise<readonly string[]> {
    const rows = await database
      .selectFrom(table as "organizations")
      .selectAll()
      .execute();
    return rows.map((row) => JSON.stringify(Object.entries(row).toSorted(([a], [b]) => (a < b ? -1 : 1)))).toSorted();
  }

  for (const release of releases) {
    test(`every row of ${release.name} arrives as this version reads it, and the file is unchanged`, async () => {
      const file = join(directory, `${release.name.replaceAll(/\W/g, "")}.sqlite`);
      await copyFile(release.file("opensandbox.sqlite"), file);
      const server = await postgres.createDatabase();
      const copied = await copyToServer(file, server, () => {}, never);
      assert.ok(copied.length > 5 && copied.some(({ rows }) => rows > 1), JSON.stringify(copied));

      await using source = await openDatabase(file);
      await using target = await openDatabase(server);
      for (const { table, rows } of copied) {
        const expected = await rowsOf(source, table);
        assert.deepEqual(await rowsOf(target, table), expected, table);
        assert.equal(rows, expected.length);
      }
      assert.deepEqual(
        (await readdir(directory)).filter((name) => name.includes("to-postgres")),
        [],
      );
      await assert.rejects(
        copyToServer(file, server, () => {}, never),
        {
          code: "invalid_argument",
          message: /has rows in the table /,
        },
      );
    });
  }

  test("a copy that fails leaves the target empty, and its repetition succeeds", async () => {
    const file = join(directory, "failing.sqlite");
    {
      await using source = await openDatabase(file);
      for (let number = 0; number < 1200; number += 1) {
        const row = { id: `org-${number}`, name: number === 1100 ? "a\u0000b" : "", created_at: number };
        await source.insertInto("organizations").values(row).execute();
      }
    }
    const server = await postgres.createDatabase();
    await assert.rejects(
      copyToServer(file, server, () => {}, never),
      { code: "invalid_argument" },
    );
    await using target = await openDatabase(server);
    assert.deepEqual(await rowsOf(target, "organizations"), []);
    {
      await using source = await openDatabase(file);
      await source.updateTable("organizations").set({ name: "" }).execute();
    }
    const copied = await copyToServer(file, server, () => {}, never);
    assert.equal(copied.find(({ table }) => table === "organizations")?.rows, 1200);
  });

  test("a migration before the first start prints what it ran, and a dry run what it would run", async () => {
    const server = await postgres.createDatabase();
    const log = (): void => {};
    const planned = await migrateDatabase(server, { dryRun: true, log });
    assert.equal(planned.at, "");
    const ran = await migrateDatabase(server, { dryRun: false, log });
    assert.deepEqual(ran.migrations, planned.migrations);
    assert.equal(ran.at, ran.migrations.at(-1));
    assert.deepEqual((await migrateDatabase(server, { dryRun: false, log })).migrations, []);
  });
});
