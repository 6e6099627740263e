import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { type Database, openDatabase } from "#database/database.ts";
import { ourMigrations } from "#database/migrate.ts";
import { OrganizationNumbers } from "./organization-numbers.ts";

async function directoryFor(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-numbers-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

const add = async (database: Database, id: string, createdAt: number): Promise<void> =>
  void (await database.insertInto("organizations").values({ id, name: id, created_at: createdAt }).execute());

function hashOf(id: string): number {
  return createHash("sha256").update(id).digest().readUIntBE(0, 3);
}

/** Two ids with the same 24 bits of their hashes, as about 4,000 organizations have among them. */
function collidingIds(): readonly [string, string] {
  const seen = new Map<number, string>();
  for (let number = 0; ; number += 1) {
    const id = `org-${number}`;
    const other = seen.get(hashOf(id));
    if (other !== undefined) return [other, id];
    seen.set(hashOf(id), id);
  }
}

test("organizations with the same hash have different numbers, and keep them", async (t) => {
  const file = join(await directoryFor(t), "opensandbox.sqlite");
  const [one, two] = collidingIds();
  await using database = await openDatabase(file);
  for (const [at, id] of [one, two, "org-c"].entries()) await add(database, id, at);
  const numbers = new OrganizationNumbers(database);
  const given = await Promise.all([one, two, "org-c", one].map((id) => numbers.of(id)));
  assert.deepEqual(
    given.toSorted((a, b) => a - b),
    [2 ** 24, 2 ** 24, 2 ** 24 + 1, 2 ** 24 + 2],
  );
  assert.equal(given[0], given[3]);
  await using again = await openDatabase(file);
  assert.deepEqual(
    await Promise.all([one, two, "org-c", one].map((id) => new OrganizationNumbers(again).of(id))),
    given,
  );
});

test("an organization of an earlier version keeps the number that its files have, unless an older one has it", async (t) => {
  const file = join(await directoryFor(t), "opensandbox.sqlite");
  const [older, newer] = collidingIds();
  {
    const earlier = Object.entries(ourMigrations).filter(([name]) => name < "0006");
    await using database = await openDatabase(file, { migrations: Object.fromEntries(earlier) });
    await add(database, newer, 2);
    await add(database, older, 1);
    await add(database, "org-default", 3);
  }
  await using database = await openDatabase(file);
  const numbers = new OrganizationNumbers(database);
  assert.equal(await numbers.of(older), hashOf(older));
  assert.equal(await numbers.of("org-default"), hashOf("org-default"));
  assert.equal(await numbers.of(newer), 2 ** 24);
});
