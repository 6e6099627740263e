import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, suite, test } from "node:test";
import { sql } from "kysely";
import { appliedMigrations } from "./applied-migrations.ts";
import { copyDaily, copyDatabase } from "./copies.ts";
import { openDatabase } from "./database.ts";
import { type Migrations, ourMigrations } from "./migrate.ts";

const names = Object.keys(ourMigrations);
const last = Number(names.at(-1)?.slice(0, 4));
const next = (number: number): string => `${String(last + number).padStart(4, "0")}-later`;
const addTable = (name: string): Migrations[string] => ({
  up: (db) => db.schema.createTable(name).addColumn("id", "text").execute(),
});

suite("the database", () => {
  let directory: string;
  let file: string;
  const logged: { message: string; fields: Readonly<Record<string, unknown>> }[] = [];
  const log = (_level: string, message: string, fields: object = {}): void => {
    logged.push({ message, fields: fields as Readonly<Record<string, unknown>> });
  };

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-migrate-"));
    file = join(directory, "opensandbox.sqlite");
    logged.length = 0;
    await using database = await openDatabase(file);
    await addOrganization(database, "org-1");
  });
  afterEach(() => rm(directory, { recursive: true }));

  async function addOrganization(database: Awaited<ReturnType<typeof openDatabase>>, id: string): Promise<void> {
    await sql`INSERT INTO organizations (id, name, created_at) VALUES (${id}, 'a name', 0)`.execute(database);
  }

  async function organizationsIn(path: string, migrations: Migrations = ourMigrations): Promise<readonly string[]> {
    await using database = await openDatabase(path, { migrations });
    const rows = await database.selectFrom("organizations").select("id").orderBy("id").execute();
    return rows.map(({ id }) => id);
  }

  async function copies(): Promise<readonly string[]> {
    return (await readdir(directory)).filter((name) => name.includes(".copy-")).toSorted();
  }

  test("a migration leaves a copy of the database as it was, which the log names with the way back", async () => {
    const migrations = { ...ourMigrations, [next(1)]: addTable("later") };
    await using database = await openDatabase(file, { migrations, log });
    await sql`INSERT INTO later (id) VALUES ('new')`.execute(database);

    const copy = `${file}.copy-${names.at(-1)}`;
    assert.deepEqual(await copies(), [`opensandbox.sqlite.copy-${names.at(-1)}`]);
    assert.equal((await stat(copy)).mode & 0o777, 0o600);
    assert.deepEqual(await organizationsIn(copy), ["org-1"]);
    assert.equal(logged.length, 1);
    assert.equal(logged[0]?.fields["command"], `osb admin restore --force ${copy}`);
  });

  test("a new database and one of this version are not copied", async () => {
    await using _same = await openDatabase(file, { log });
    await using _new = await openDatabase(join(directory, "new.sqlite"), { log });
    assert.deepEqual(await copies(), []);
    assert.deepEqual(logged, []);
  });

  test("a migration that fails leaves the database as the earlier version wrote it, and says so", async () => {
    const half = {
      up: async (...[db]: Parameters<Migrations[string]["up"]>) => {
        await addTable("half").up(db);
        await sql`UPDATE organizations SET name = 'changed'`.execute(db);
        throw new Error("the second half failed");
      },
    };
    const migrations = { ...ourMigrations, [next(1)]: addTable("whole"), [next(2)]: half };
    await assert.rejects(openDatabase(file, { migrations }), {
      code: "unavailable",
      message:
        `cannot migrate the database ${file} (${next(2)}): the second half failed. The database is unchanged: ` +
        `start the earlier version to use it. Its copy is ${file}.copy-${names.at(-1)}`,
    });
    await using database = await openDatabase(file);
    assert.deepEqual(await appliedMigrations(database), names);
    const tables = await sql`SELECT name FROM sqlite_master WHERE name IN ('half', 'whole')`.execute(database);
    assert.deepEqual(tables.rows, []);
    assert.equal((await database.selectFrom("organizations").selectAll().executeTakeFirst())?.name, "a name");
  });

  test("a copy that cannot be written stops the migration before it begins", async () => {
    const blocked = `${file}.copy-${names.at(-1)}`;
    // A directory with content: no rename replaces it.
    await mkdir(join(blocked, "full"), { recursive: true });
    const migrations = { ...ourMigrations, [next(1)]: addTable("later") };
    await assert.rejects(openDatabase(file, { migrations }), /cannot copy the database to /);
    await rm(blocked, { recursive: true });
    assert.deepEqual(await organizationsIn(file), ["org-1"]);
    assert.deepEqual(await copies(), []);
  });

  test("only the copies of the last three migrations are kept", async () => {
    let migrations: Migrations = ourMigrations;
    for (let number = 1; number <= 5; number += 1) {
      migrations = { ...migrations, [next(number)]: addTable(`later${number}`) };
      await using _ = await openDatabase(file, { migrations });
    }
    assert.deepEqual(
      await copies(),
      [2, 3, 4].map((number) => `opensandbox.sqlite.copy-${next(number)}`),
    );
  });

  test("a database of a newer version is refused, with the way back", async () => {
    await using _ = await openDatabase(file, { migrations: { ...ourMigrations, [next(1)]: addTable("later") } });
    await assert.rejects(openDatabase(file), /belongs to a newer version \(migration \d{4}-later\).*osb admin restore/);
  });

  test("a copy made after another process has migrated the database does not replace the one from before", async () => {
    const copy = `${file}.copy-${names.at(-1)}`;
    await using waiting = await openDatabase(file);
    await using _ = await openDatabase(file, { migrations: { ...ourMigrations, [next(1)]: addTable("later") } });
    const before = await stat(copy);
    await copyDatabase(waiting, copy, () => false);
    assert.equal((await stat(copy)).ino, before.ino);
    assert.deepEqual(await copies(), [`opensandbox.sqlite.copy-${names.at(-1)}`]);
  });

  test("the daily copy has every row, and is renewed when it is a day old", async () => {
    const copy = `${file}.copy-daily`;
    await using database = await openDatabase(file);
    await copyDaily(database, file, Date.now());
    await addOrganization(database, "org-2");
    await copyDaily(database, file, Date.now() + 23 * 3_600_000);
    assert.deepEqual(await organizationsIn(copy), ["org-1"]);
    await copyDaily(database, file, Date.now() + 25 * 3_600_000);
    assert.deepEqual(await organizationsIn(copy), ["org-1", "org-2"]);
  });

  for (const [what, damage] of [
    ["a damaged page", (bytes: Buffer) => bytes.fill(0xff, 8192, 12_288)],
    ["an overwritten header", (bytes: Buffer) => bytes.fill(0xff, 0, 4096)],
  ] as const) {
    test(`${what}: the database is refused when it is opened, and its newest intact copy is named`, async () => {
      {
        await using database = await openDatabase(file);
        await copyDaily(database, file, Date.now());
      }
      await writeFile(`${file}.copy-0001-older`, "not a database");
      await writeFile(file, damage(await readFile(file)));
      await assert.rejects(openDatabase(file), {
        code: "unavailable",
        message: new RegExp(`restore its newest copy by 'osb admin restore --force ${file}.copy-daily'`),
      });
    });
  }
});
