import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, beforeEach, suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { type CompiledQuery, type RawBuilder, sql } from "kysely";
import { AuditLog } from "../audit/audit-log.ts";
import { newSandboxId, newSnapshotId, type SandboxId, type SnapshotId } from "@opensandbox/wire/ids.ts";
import { CheckpointStore } from "#checkpoints/checkpoint-store.ts";
import { PatchStore } from "#checkpoints/patch-store.ts";
import { type Database, openDatabase } from "#database/database.ts";
import type { DatabaseLocation } from "#database/database-server.ts";
import { serverKey } from "#database/server-key.ts";
import { EventStore } from "#events/event-store.ts";
import { ImageStore } from "#images/image-store.ts";
import {
  type Authenticate,
  authenticator,
  defaultOrganizationId,
  makeDefaultOrganization,
  makeFirstApiKey,
} from "#organizations/api-keys.ts";
import { ApiKeyStore } from "#organizations/api-key-store.ts";
import { OrganizationStore } from "#organizations/organization-store.ts";
import { OrganizationNumbers } from "#organizations/organization-numbers.ts";
import type { Preview } from "#previews/preview.ts";
import { PreviewStore } from "#previews/preview-store.ts";
import { type SandboxSelection, SandboxStore } from "#sandboxes/sandbox-store.ts";
import { RowRetention } from "../retention/row-retention.ts";
import { ManualClock } from "./manual-clock.ts";
import { checkpointForTest, imageForTest, sandboxForTest } from "./rows-for-test.ts";

const unlimited = { maxSandboxes: 10_000 };
const organizationId = "org-1";

/** Servers that share the database in tests of concurrency. */
const servers = 4;

/**
 * The promises of every store, on one engine.
 * @param makeDatabase makes an empty database, which the suite uses with several connections
 */
export function storeContract(engine: string, makeDatabase: () => Promise<DatabaseLocation>): void {
  suite(`stores on ${engine}`, () => {
    const stack = new AsyncDisposableStack();
    let location: DatabaseLocation;
    let database: Database;
    /** The same database, opened as by other server processes. */
    let others: Database[];

    before(async () => {
      location = await makeDatabase();
      database = stack.use(await openDatabase(location));
      others = [];
      for (let number = 1; number < servers; number += 1) {
        // A call of SQLite blocks the process, so a second connection of the same process could wait for the first forever.
        others.push(typeof location === "string" ? database : stack.use(await openDatabase(location)));
      }
    });
    after(() => stack.disposeAsync());
    beforeEach(async () => {
      for (const table of [
        "previews",
        "patches",
        "images",
        "checkpoints",
        "unwanted_snapshots",
        "audit_entries",
      ] as const)
        await database.deleteFrom(table).execute();
      for (const table of [
        "events",
        "webhook_deliveries",
        "webhooks",
        "sandboxes",
        "api_keys",
        "server_keys",
        "organizations",
      ] as const)
        await database.deleteFrom(table).execute();
      for (const id of [organizationId, "org-2"])
        await database.insertInto("organizations").values({ id, name: id, created_at: 0 }).execute();
    });

    /** Runs the same call on every server at once, several times each. */
    async function everywhere<T>(
      rounds: number,
      call: (database: Database, number: number) => Promise<T>,
    ): Promise<T[]> {
      const all = [database, ...others];
      return await Promise.all(
        Array.from({ length: rounds * all.length }, (_, number) => call(all[number % all.length]!, number)),
      );
    }

    /** The events of a server; the tests read none. */
    const eventsOf = (each: Database): EventStore => new EventStore(each, new ManualClock());

    function authenticatorFor(clock = new ManualClock()): Authenticate {
      return authenticator({ database, staticKey: undefined, clock, log: () => {} });
    }

    async function unwanted(): Promise<readonly string[]> {
      const rows = await database.selectFrom("unwanted_snapshots").selectAll().execute();
      return rows.map(({ snapshot_id: id }) => id).toSorted();
    }

    suite("sandboxes", () => {
      test("a sandbox comes back with every property, present or absent", async () => {
        const store = new SandboxStore(database, eventsOf(database));
        const full = sandboxForTest();
        const { egress: _, idempotencyKey: _2, expiresAt: _3, autoscale: _4, hostPort: _5, ...rest } = sandboxForTest();
        for (const sandbox of [full, { ...rest, hidden: true, networkEnabled: false }]) {
          assert.equal(await store.add(sandbox, unlimited), "added");
          assert.deepEqual(present((await store.find(sandbox.id)) ?? {}), sandbox);
        }
        assert.deepEqual(await store.findByKey(organizationId, full.idempotencyKey!), await store.find(full.id));
        assert.equal(await store.find(newSandboxId()), undefined);
      });

      test("a sandbox is found by its own organization, unless it is hidden", async () => {
        const store = new SandboxStore(database, eventsOf(database));
        const seen = sandboxForTest();
        const hidden = sandboxForTest({ hidden: true });
        for (const sandbox of [seen, hidden]) await store.add(sandbox, unlimited);
        assert.equal((await store.get(organizationId, seen.id)).id, seen.id);
        await assert.rejects(store.get("org-2", seen.id), { code: "not_found" });
        await assert.rejects(store.get(organizationId, hidden.id), { code: "not_found" });
      });

      test("lists have their order, their states and their limit", async () => {
        const store = new SandboxStore(database, eventsOf(database));
        const at = (milliseconds: number) => ({ createdAt: new Date(milliseconds) });
        const older = sandboxForTest({ ...at(1), state: "hibernated", forwardedPort: undefined });
        const newer = sandboxForTest({ ...at(2), workerId: "worker-2" });
        const stopped = sandboxForTest({ ...at(3), state: "stopped" });
        const foreign = sandboxForTest({ ...at(4), organizationId: "org-2", ephemeral: true });
        for (const sandbox of [older, newer, stopped, foreign]) await store.add(sandbox, unlimited);
        const ids = (sandboxes: readonly { readonly id: SandboxId }[]) => sandboxes.map(({ id }) => id);
        assert.deepEqual(ids(await store.list(organizationId, ["running", "hibernated"], 10)), [newer.id, older.id]);
        assert.deepEqual(ids(await store.list(organizationId, ["running", "hibernated"], 1)), [newer.id]);
        const selected = async (selection: SandboxSelection) =>
          ids(await store.list(organizationId, ["running", "hibernated"], 10, selection));
        assert.deepEqual(await selected({ after: newer }), [older.id]);
        assert.deepEqual(await selected({ after: older }), []);
        await store.update(older.id, { tags: { team: "web", 'a"team': "api" }, deleteAt: new Date(5) });
        assert.deepEqual(await selected({ tag: { key: "team" } }), [older.id]);
        assert.deepEqual(await selected({ tag: { key: "team", value: "web" } }), [older.id]);
        for (const value of ["Web", "we", "api"]) assert.deepEqual(await selected({ tag: { key: "team", value } }), []);
        assert.deepEqual([await store.listPastDeletion(4), await store.listPastDeletion(5)], [[], [older.id]]);
        assert.deepEqual(ids(await store.listRunning()).toSorted(), [newer.id, foreign.id].toSorted());
        assert.deepEqual(ids(await store.listForwarded()).toSorted(), [newer.id, foreign.id].toSorted());
        assert.deepEqual(ids(await store.listHeld()).toSorted(), [newer.id, foreign.id].toSorted());
        const { sandboxes, snapshots } = await store.owned(organizationId);
        assert.deepEqual(sandboxes.toSorted(), [older.id, newer.id].toSorted());
        assert.equal(snapshots.length, 2);
        assert.equal((await store.owned(undefined)).sandboxes.length, 3);
      });

      test("of concurrent moves one wins, and the others name the state that it made", async () => {
        const sandbox = sandboxForTest({ hibernationSnapshotId: undefined });
        await new SandboxStore(database, eventsOf(database)).add(sandbox, unlimited);
        const results = await everywhere(2, (each) =>
          new SandboxStore(each, eventsOf(each)).move(sandbox, "hibernate").then(
            ({ state }) => state as string,
            (error: Error) => error.message,
          ),
        );
        assert.equal(results.filter((result) => result === "hibernating").length, 1);
        const refused = `cannot hibernate sandbox ${sandbox.id}: its state is now hibernating`;
        assert.equal(results.filter((result) => result === refused).length, results.length - 1);
      });

      test("a move refuses a sandbox of another generation", async () => {
        const store = new SandboxStore(database, eventsOf(database));
        const sandbox = sandboxForTest();
        await store.add(sandbox, unlimited);
        await assert.rejects(store.move({ ...sandbox, generation: 2 }, "hibernate"), { code: "wrong_state" });
      });

      test("a hibernation snapshot that a move replaces becomes unwanted", async () => {
        const store = new SandboxStore(database, eventsOf(database));
        const sandbox = sandboxForTest({ state: "waking" });
        await store.add(sandbox, unlimited);
        const running = await store.move(sandbox, "started", { hibernationSnapshotId: undefined });
        assert.deepEqual([running.state, running.hibernationSnapshotId], ["running", undefined]);
        assert.deepEqual(await unwanted(), [sandbox.hibernationSnapshotId]);
      });

      test("creates on all servers at once never exceed the limit of the organization", async () => {
        const outcomes = await everywhere(5, (each) =>
          new SandboxStore(each, eventsOf(each)).add(sandboxForTest({ state: "creating" }), { maxSandboxes: 7 }).then(
            () => "added",
            (error: { code: string }) => error.code,
          ),
        );
        assert.equal(outcomes.filter((outcome) => outcome === "added").length, 7);
        assert.equal(outcomes.filter((outcome) => outcome === "quota_exceeded").length, outcomes.length - 7);
      });

      test("creates, wakes and growth on all servers at once never exceed the memory of all organizations", async () => {
        const limits = { maxSandboxes: 1000, memoryMib: 6000 };
        const store = new SandboxStore(database, eventsOf(database));
        const asleep = Array.from({ length: servers }, () => sandboxForTest({ state: "hibernated" }));
        const awake = sandboxForTest({ memoryMib: 1000 });
        for (const sandbox of [...asleep, awake]) await store.add(sandbox, unlimited);
        await everywhere(3, async (each, number) => {
          const own = new SandboxStore(each, eventsOf(each));
          const organization = number % 2 === 0 ? organizationId : "org-2";
          const change =
            number < servers
              ? own.move(asleep[number]!, "wake", { generation: 2 }, { limits })
              : number === servers
                ? own.grow(awake, 2000, limits)
                : own.add(sandboxForTest({ organizationId: organization, memoryMib: 1000 }), limits);
          await change.catch((error: { code: string }) => assert.equal(error.code, "no_capacity"));
        });
        const { sum } = await database
          .selectFrom("sandboxes")
          .select(({ fn }) => fn.sum<number>("memory_mib").as("sum"))
          .where("state", "in", ["running", "waking", "creating"])
          .executeTakeFirstOrThrow();
        assert.ok(sum <= 6000 && sum >= 5000, `${sum}`);
      });

      test("of creates with one idempotency key on all servers at once, one adds the sandbox", async () => {
        const idempotencyKey = randomUUID();
        const outcomes = await everywhere(3, (each) =>
          new SandboxStore(each, eventsOf(each)).add(sandboxForTest({ idempotencyKey }), unlimited),
        );
        assert.equal(outcomes.filter((outcome) => outcome === "added").length, 1);
        assert.equal(outcomes.filter((outcome) => outcome === "key used").length, outcomes.length - 1);
      });

      test("of ten thousand sandboxes, a page, those of a worker, idle ones and a single one are read by an index", async () => {
        const statements: CompiledQuery[] = [];
        const recording = database.withPlugin({
          transformQuery({ node, queryId }) {
            statements.push(database.getExecutor().compileQuery(node, queryId));
            return node;
          },
          transformResult: async ({ result }) => await Promise.resolve(result),
        });
        const first = sandboxForTest({ idempotencyKey: "a key" });
        const store = new SandboxStore(recording, eventsOf(database));
        await new SandboxStore(database, eventsOf(database)).add(first, unlimited);
        const row = await database.selectFrom("sandboxes").selectAll().where("id", "=", first.id).executeTakeFirst();
        const changed: Record<string, RawBuilder<unknown>> = {
          id: typeof location === "string" ? sql`printf('sb-%016x', n)` : sql`'sb-' || lpad(to_hex(n), 16, '0')`,
          state: sql`CASE WHEN n % 50 = 0 THEN 'running' ELSE 'hibernated' END`,
          worker_id: sql`CASE WHEN n % 50 = 0 THEN 'wk-' || (n % 1000) ELSE '' END`,
          expires_at: sql`CASE WHEN n % 50 = 0 THEN n END`,
          created_at: sql`n`,
          idempotency_key: sql`NULL`,
        };
        const columns = Object.keys(row!);
        await sql`
          INSERT INTO sandboxes (${sql.join(columns.map((column) => sql.ref(column)))})
          SELECT ${sql.join(columns.map((column) => changed[column] ?? sql`s.${sql.ref(column)}`))}
          FROM sandboxes s, (WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000)
            SELECT n FROM numbers) AS numbers WHERE s.id = ${first.id}`.execute(database);
        await sql`ANALYZE sandboxes`.execute(database);
        assert.equal((await store.list(organizationId, ["running", "hibernated"], 100)).length, 100);
        assert.equal((await store.listHeldBy("wk-50")).length, 10);
        assert.equal((await store.listIdle(new Date(100))).length, 2);
        assert.equal((await store.find(first.id))?.id, first.id);
        assert.equal((await store.findByKey(organizationId, "a key"))?.id, first.id);
        assert.ok(statements.length >= 5, `${statements.length}`);
        for (const statement of statements) {
          const explain = typeof location === "string" ? sql`EXPLAIN QUERY PLAN ` : sql`EXPLAIN `;
          const plan = JSON.stringify((await sql`${explain}${sql.raw(inlined(statement))}`.execute(database)).rows);
          assert.match(plan, /USING (COVERING )?INDEX|Index Scan|Bitmap Index/, plan);
          assert.doesNotMatch(plan, /Seq Scan on sandboxes|SCAN sandboxes"/, plan);
        }
      });

      test("an update changes only the given columns, and undefined clears one", async () => {
        const store = new SandboxStore(database, eventsOf(database));
        const sandbox = sandboxForTest();
        await store.add(sandbox, unlimited);
        const changed = await store.update(sandbox.id, { tags: { new: "tag" }, endReason: undefined });
        assert.deepEqual(present(changed), present({ ...sandbox, tags: { new: "tag" }, endReason: undefined }));
        await store.setExpiresAt(sandbox.id, new Date(5));
        assert.deepEqual((await store.find(sandbox.id))?.expiresAt, new Date(5));
        await store.remove(sandbox.id);
        await assert.rejects(store.update(sandbox.id, { tags: {} }), { code: "not_found" });
      });

      test("text with the character U+0000 is refused or stored, and never changed", async () => {
        const store = new SandboxStore(database, eventsOf(database));
        const sandbox = sandboxForTest({ alias: "a\u0000b" });
        try {
          await store.add(sandbox, unlimited);
          assert.equal((await store.find(sandbox.id))?.alias, sandbox.alias);
        } catch (error) {
          assert.equal((error as { code?: string }).code, "invalid_argument");
        }
      });
    });

    suite("checkpoints", () => {
      test("a checkpoint comes back with every property and is found by its own organization", async () => {
        const store = new CheckpointStore(database, eventsOf(database));
        const checkpoint = checkpointForTest({ failedAt: new Date(3), error: "an error" });
        assert.equal(await store.add(checkpoint), "added");
        const { patchSequence: _, ...found } = (await store.get(organizationId, checkpoint.id)) as unknown as {
          patchSequence: number;
        };
        assert.deepEqual(found, checkpoint);
        await assert.rejects(store.get("org-2", checkpoint.id), { code: "not_found" });
      });

      test("a name is used once in a sandbox, except by failed checkpoints", async () => {
        const store = new CheckpointStore(database, eventsOf(database));
        const sandboxId = newSandboxId();
        const add = (): Promise<string> => store.add(checkpointForTest({ sandboxId, status: "processing" }));
        assert.deepEqual([await add(), await add()], ["added", "name used"]);
        const [first] = await store.listOf(organizationId, sandboxId);
        await store.fail(first!, "the disk is full", new Date(1));
        assert.equal(await add(), "added");
        assert.equal((await store.listProcessing()).length, 1);
      });

      test("checkpoints made on all servers at once never exceed the limit of their sandbox", async () => {
        const sandboxId = newSandboxId();
        const outcomes = await everywhere(3, (each, number) =>
          new CheckpointStore(each, eventsOf(each)).add(checkpointForTest({ sandboxId, name: `n${number}` }), {
            count: 4,
            replaces: false,
          }),
        );
        assert.equal(outcomes.filter((outcome) => outcome === "added").length, 4);
      });

      test("a checkpoint that becomes ready replaces the oldest of its kind, with patches and snapshots", async () => {
        const store = new CheckpointStore(database, eventsOf(database));
        const sandboxId = newSandboxId();
        const old = [1, 2, 3].map((at) => checkpointForTest({ sandboxId, name: `${at}`, createdAt: new Date(at) }));
        const made = checkpointForTest({ sandboxId, status: "processing", sizeBytes: 0 });
        for (const each of [...old, made]) await store.add(each);
        await new PatchStore(database).add(old[0]!.id, { script: "s", description: "", createdAt: new Date(1) });
        assert.equal(await store.finish(made, 7, 2), true);
        const left = await store.listOf(organizationId, sandboxId);
        assert.deepEqual(
          left.map(({ id, sizeBytes }) => [id, sizeBytes]),
          [
            [old[2]!.id, 2 ** 40],
            [made.id, 7],
          ],
        );
        assert.deepEqual(await unwanted(), [old[0]!.snapshotId, old[1]!.snapshotId].toSorted());
        assert.deepEqual(await new PatchStore(database).list(old[0]!.id), []);
        assert.equal(await store.finish(old[0]!, 1), false);
      });

      test("a snapshot becomes unwanted when its last references go, on several servers at once", async () => {
        for (let round = 0; round < 10; round += 1) {
          const snapshotId = newSnapshotId();
          const made = Array.from({ length: servers }, (_, number) =>
            checkpointForTest({ snapshotId, name: `${number}` }),
          );
          for (const each of made) await new CheckpointStore(database, eventsOf(database)).add(each);
          await everywhere(1, (each, number) => new CheckpointStore(each, eventsOf(each)).remove(made[number]!));
          assert.deepEqual(await unwanted(), [snapshotId]);
          await database.deleteFrom("unwanted_snapshots").execute();
        }
      });

      test("a copy that is made while its original is removed either keeps the snapshot or fails", async () => {
        for (let round = 0; round < 10; round += 1) {
          const original = checkpointForTest();
          await new CheckpointStore(database, eventsOf(database)).add(original);
          const copy = { id: randomUUID(), name: "copy", createdAt: new Date(1), workerId: "" };
          const [copied] = await Promise.all([
            new CheckpointStore(others[0]!, eventsOf(others[0]!)).copy(original.id, copy),
            new CheckpointStore(database, eventsOf(database)).remove(original),
          ]);
          assert.deepEqual(await unwanted(), copied ? [] : [original.snapshotId]);
          await database.deleteFrom("unwanted_snapshots").execute();
          await database.deleteFrom("checkpoints").execute();
        }
      });

      test("a checkpoint can be published; lists leave out hidden ones, and hidden ones without an image are found", async () => {
        const store = new CheckpointStore(database, eventsOf(database));
        const seen = checkpointForTest();
        const hidden = checkpointForTest({ hidden: true });
        for (const each of [seen, hidden]) await store.add(each);
        assert.equal((await store.setPublic(seen.id, true)).isPublic, true);
        await assert.rejects(store.setPublic(randomUUID(), true), { code: "not_found" });
        const ids = (found: readonly { readonly id: string }[]) => found.map(({ id }) => id);
        assert.deepEqual(ids(await store.list(organizationId, 10)), [seen.id]);
        assert.deepEqual(ids(await store.listUnnamed()), [hidden.id]);
        await new ImageStore(database).add(imageForTest({ checkpointId: hidden.id }));
        assert.deepEqual(await store.listUnnamed(), []);
      });

      test("patches that are added on all servers at once have numbers of their own, which are never reused", async () => {
        const checkpoint = checkpointForTest();
        await new CheckpointStore(database, eventsOf(database)).add(checkpoint);
        const patch = { script: "s", description: "d", createdAt: new Date(1) };
        const added = await everywhere(3, (each) => new PatchStore(each).add(checkpoint.id, patch));
        const sequences = added.map(({ sequence }) => sequence).toSorted((a, b) => a - b);
        assert.deepEqual(
          sequences,
          sequences.map((_, at) => at + 1),
        );
        const store = new PatchStore(database);
        const last = added.find(({ sequence }) => sequence === sequences.length)!;
        assert.equal(await store.remove(checkpoint.id, last.id), true);
        assert.equal(await store.remove(checkpoint.id, last.id), false);
        assert.equal((await store.add(checkpoint.id, patch)).sequence, sequences.length + 1);
        assert.equal((await store.list(checkpoint.id, sequences.length)).length, 1);
        await assert.rejects(store.add(randomUUID(), patch), { code: "not_found" });
      });
    });

    suite("images", () => {
      test("an image comes back with every property, by name, id and content", async () => {
        const store = new ImageStore(database);
        const named = imageForTest({ checkpointId: randomUUID(), error: "an error", status: "ready" });
        const unnamed = imageForTest({ contentHash: "ef".repeat(32), name: undefined, status: "ready" });
        for (const image of [named, unnamed]) await store.add(image);
        assert.deepEqual(await store.get(organizationId, "a name"), named);
        assert.deepEqual(await store.getAny(organizationId, named.id), named);
        assert.equal((await store.getAny(organizationId, unnamed.contentHash)).id, unnamed.id);
        assert.equal((await store.findByContent(organizationId, unnamed.contentHash))?.id, unnamed.id);
        assert.equal(await store.findByContent("org-2", unnamed.contentHash), undefined);
        await assert.rejects(store.get("org-2", "a name"), { code: "not_found" });
        assert.equal((await store.list(organizationId)).length, 2);
      });

      test("of images with one name on all servers at once, one is added", async () => {
        const outcomes = await everywhere(3, (each) =>
          new ImageStore(each).add(imageForTest()).then(
            () => "added",
            (error: { code: string }) => error.code,
          ),
        );
        assert.equal(outcomes.filter((outcome) => outcome === "added").length, 1);
        assert.equal(outcomes.filter((outcome) => outcome === "already_exists").length, outcomes.length - 1);
      });

      test("a failed image frees its name, and a build that ends later finds no image", async () => {
        const store = new ImageStore(database);
        const failed = imageForTest();
        await store.add(failed);
        assert.equal((await store.listBuilding()).length, 1);
        await store.fail(failed.id, "a step failed");
        const next = imageForTest();
        await store.add(next);
        assert.equal((await store.finish(next.id, "cp"))?.status, "ready");
        assert.equal(await store.finish(failed.id, "cp"), undefined);
        assert.equal(await store.touch(next.id, new Date(9)), true);
        await store.remove(next.id);
        assert.equal(await store.touch(next.id, new Date(9)), false);
      });
    });

    suite("previews", () => {
      const previewFor = (sandboxId: SandboxId, changes: Partial<Preview> = {}): Preview => ({
        ...{ id: randomUUID(), sandboxId, organizationId, port: 80, createdAt: new Date(1), ...changes },
      });

      test("of previews of one port on all servers at once, one is added and all return it", async () => {
        const sandbox = sandboxForTest();
        await new SandboxStore(database, eventsOf(database)).add(sandbox, unlimited);
        const made = await everywhere(3, (each) => new PreviewStore(each, eventsOf(each)).add(previewFor(sandbox.id)));
        assert.equal(made.filter(({ added }) => added).length, 1);
        assert.equal(new Set(made.map(({ preview }) => preview.id)).size, 1);
      });

      test("a custom domain leads to one port, until its sandbox is stopped", async () => {
        const [one, two] = [sandboxForTest(), sandboxForTest()];
        for (const sandbox of [one, two]) await new SandboxStore(database, eventsOf(database)).add(sandbox, unlimited);
        const store = new PreviewStore(database, eventsOf(database));
        const domain = { customHostname: "a.example.com" };
        await store.add(previewFor(one.id, { ...domain, domainProvedAt: new Date(5) }));
        await assert.rejects(store.add(previewFor(two.id, domain)), { code: "already_exists" });
        const found = await store.findDomain("a.example.com");
        assert.deepEqual(
          [found?.sandboxId, found?.organizationId, found?.provedAt],
          [one.id, organizationId, new Date(5)],
        );
        await store.setProvedAt(found!, undefined);
        assert.equal((await store.findDomain("a.example.com"))?.provedAt, undefined);
        await new SandboxStore(database, eventsOf(database)).move(one, "delete");
        await new SandboxStore(database, eventsOf(database)).move({ ...one, state: "stopping" }, "stopped");
        assert.equal((await store.add(previewFor(two.id, domain))).added, true);
        await store.releaseDomain((await store.findDomain("a.example.com"))!);
        assert.equal(await store.findDomain("a.example.com"), undefined);
        assert.deepEqual(
          (await store.list(organizationId, two.id)).map(({ port }) => port),
          [80],
        );
        assert.deepEqual([await store.remove(two.id, 80), await store.remove(two.id, 80)], [true, false]);
      });
    });

    suite("organizations and keys", () => {
      test("servers that start at once make one first key and share the server's own keys", async () => {
        const keys = await everywhere(2, async (each) => {
          await makeDefaultOrganization(each, 1);
          return await makeFirstApiKey(each, 1);
        });
        const [key, ...more] = keys.filter((made) => made !== undefined);
        assert.deepEqual(more, []);
        const authenticate = authenticatorFor();
        assert.equal((await authenticate(key)).organizationId, defaultOrganizationId);
        await assert.rejects(authenticate("osb_unknown"), { code: "permission_denied" });
        assert.equal(new Set(await everywhere(2, (each) => serverKey(each, "a name"))).size, 1);
      });

      test("organizations that get their numbers on all servers at once have different ones", async () => {
        for (let number = 0; number < 8; number += 1) {
          const row = { id: `numbered-${number}`, name: "", created_at: 0 };
          await database.insertInto("organizations").values(row).execute();
        }
        const given = await everywhere(4, (each, number) => new OrganizationNumbers(each).of(`numbered-${number % 8}`));
        assert.equal(new Set(given).size, 8);
        assert.equal(Math.min(...given), 2 ** 24);
      });
    });

    suite("keys with scopes", () => {
      test("a key is accepted until it expires, or it or its organization is revoked", async () => {
        const clock = new ManualClock();
        const store = new ApiKeyStore(database);
        const organizations = new OrganizationStore(database);
        const made = new Date(clock.now());
        const wanted = { organizationId, name: "ci", scopes: ["sandboxes:read"] as const };
        const { key, apiKey } = await store.create({ ...wanted, expiresAt: new Date(clock.now() + 10_000) }, made);
        const { key: other } = await store.create({ ...wanted, name: "other" }, made);
        const authenticate = authenticatorFor(clock);
        assert.deepEqual(await authenticate(key), {
          ...{ organizationId, keyId: apiKey.id, actor: `ci (${key.slice(0, 12)})`, scopes: ["sandboxes:read"] },
        });
        assert.deepEqual(await store.accepted([apiKey.id, "unknown"], clock.now()), new Set([apiKey.id]));
        clock.advance(10);
        await assert.rejects(authenticate(key), { code: "permission_denied", message: "the API key has expired" });
        assert.deepEqual(await store.accepted([apiKey.id], clock.now()), new Set());

        await organizations.setRevoked(organizationId, new Date(clock.now()));
        await assert.rejects(authenticate(other), {
          code: "permission_denied",
          message: /organization that was revoked/,
        });
        await organizations.setRevoked(organizationId, undefined);
        await authenticate(other);
        await store.revoke(other.slice(0, 12), new Date(5));
        await assert.rejects(authenticate(other), { code: "permission_denied", message: "the API key was revoked" });
        const revoked = (await store.list(organizationId)).find(({ name }) => name === "other");
        assert.equal((await store.revoke(revoked!.id, new Date(6))).revokedAt?.getTime(), 5);
        assert.deepEqual(await store.list("org-2"), []);
        await assert.rejects(store.revoke("osb_nothing", made), { code: "not_found" });
        await assert.rejects(store.create({ ...wanted, organizationId: "nothing" }, made), { code: "not_found" });
      });

      test("the last use of a key is stored, once a minute", async () => {
        const clock = new ManualClock();
        const store = new ApiKeyStore(database);
        const { key } = await store.create({ organizationId, name: "", scopes: ["admin:write"] }, new Date(0));
        const authenticate = authenticatorFor(clock);
        const used = async () => (await store.list(organizationId))[0]?.lastUsedAt?.getTime();
        const first = clock.now();
        await authenticate(key);
        await eventually("the use is stored", async () => (await used()) === first);
        clock.advance(59.999);
        await authenticate(key);
        clock.advance(0.001);
        await authenticate(key);
        await eventually("the later use is stored", async () => (await used()) === clock.now());
      });

      test("an organization's own limits replace the server's, one by one", async () => {
        const store = new OrganizationStore(database);
        const server = { maxSandboxes: 50, organizationMemoryMib: 4096 };
        const { id } = await store.create("ours", { maxSandboxes: 2 }, new Date(1));
        assert.deepEqual(await store.limitsOf(id, server), { ...server, maxSandboxes: 2 });
        await store.setLimits(id, { maxSandboxes: null, maxDiskMib: 7 });
        assert.deepEqual(await store.limitsOf(id, server), { ...server, organizationDiskMib: 7 });
        assert.deepEqual((await store.list()).map(({ name }) => name).toSorted(), ["org-1", "org-2", "ours"]);
        await assert.rejects(store.setLimits("nothing", {}), { code: "not_found" });
      });
    });

    suite("the audit log", () => {
      const entry = { organizationId, actor: "ci", action: "createSandbox", method: "POST", path: "/api/sandboxes" };
      const rest = { address: "127.0.0.1", requestId: "req-1", status: 201 };

      test("pages go from the newest entry to the oldest, and show one organization", async () => {
        const clock = new ManualClock();
        await using log = new AuditLog(database, clock, () => {});
        for (let status = 200; status < 205; status += 1) log.add({ ...entry, ...rest, status, keyId: "a key" });
        clock.advance(1);
        log.add({ ...entry, ...rest, status: 205, resource: "sb-1" });
        log.add({ ...entry, ...rest, organizationId: "org-2" });
        const first = await log.list(organizationId, 4);
        assert.deepEqual(
          first.map(({ status }) => status),
          [205, 204, 203, 202],
        );
        assert.deepEqual([first[0]?.resource, first[0]?.at, first[1]?.keyId], ["sb-1", new Date(clock.now()), "a key"]);
        const second = await log.list(organizationId, 4, first.at(-1)!.id);
        assert.deepEqual(
          second.map(({ status }) => status),
          [201, 200],
        );
      });

      test("old entries are removed in steps, and newer ones stay", async () => {
        const clock = new ManualClock();
        await using log = new AuditLog(database, clock, () => {});
        for (let number = 0; number < 2500; number += 1) log.add({ ...entry, ...rest });
        clock.advance(1000);
        log.add({ ...entry, ...rest });
        await log.flush();
        assert.equal(await log.removeOld(new Date(clock.now())), 2500);
        assert.equal((await log.list(organizationId, 10)).length, 1);
      });

      test("a page of a hundred thousand entries is read by the index, at its beginning and at its end", async () => {
        const insert = sql`
          INSERT INTO audit_entries (id, organization_id, at, actor, action, method, path, address, request_id, status)
          SELECT ${typeof location === "string" ? sql`printf('%032x', n)` : sql`lpad(to_hex(n), 32, '0')`},
            CASE WHEN n % 10 = 0 THEN 'org-1' ELSE 'org-2' END, 0, '', '', '', '', '', '', 200
          FROM (WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
                SELECT n FROM numbers) AS numbers`;
        await insert.execute(database);
        if (typeof location !== "string") await sql`ANALYZE audit_entries`.execute(database);
        for (const before of ["f".repeat(32), (2000).toString(16).padStart(32, "0")]) {
          const page = database
            .selectFrom("audit_entries")
            .selectAll()
            .where("organization_id", "=", organizationId)
            .where("id", "<", before)
            .orderBy("id", "desc")
            .limit(100)
            .compile();
          const explain = typeof location === "string" ? sql`EXPLAIN QUERY PLAN ` : sql`EXPLAIN `;
          const plan = await sql`${explain}${sql.raw(inlined(page))}`.execute(database);
          const text = JSON.stringify(plan.rows);
          assert.match(
            text,
            /audit_entries_1 \(organization_id=\? AND id<\?\)|Index Cond: \(\(organization_id = .* AND \(id </,
          );
          assert.doesNotMatch(text, /Sort|TEMP B-TREE|Seq Scan/);
          await using log = new AuditLog(database, new ManualClock(), () => {});
          assert.equal((await log.list(organizationId, 100, before)).length, 100);
        }
      });
    });

    suite("retention", () => {
      test("old rows of what has ended are removed, except those still in use", async () => {
        const sandboxes = new SandboxStore(database, eventsOf(database));
        const checkpoints = new CheckpointStore(database, eventsOf(database));
        const images = new ImageStore(database);
        const old = { state: "stopped", endedAt: new Date(10) } as const;
        const gone = sandboxForTest(old);
        const kept = sandboxForTest(old);
        for (const sandbox of [gone, kept]) await sandboxes.add(sandbox, unlimited);
        await new PreviewStore(database, eventsOf(database)).add({
          ...gone,
          id: randomUUID(),
          sandboxId: gone.id,
          customHostname: undefined,
          port: 80,
        });
        await checkpoints.add(checkpointForTest({ sandboxId: kept.id }));
        await checkpoints.add(
          checkpointForTest({ status: "failed", failedAt: new Date(10), snapshotId: "" as SnapshotId }),
        );
        await images.add(imageForTest({ status: "failed", createdAt: new Date(10) }));
        const rows = new RowRetention(database);
        const expected = { stoppedSandboxes: 1, failedCheckpoints: 1, failedImages: 1, events: 0, deliveries: 0 };
        assert.deepEqual(await rows.countOld(new Date(11)), expected);
        assert.deepEqual(await rows.removeOld(new Date(11), new AbortController().signal), expected);
        assert.deepEqual((await rows.countOld(new Date(11))).stoppedSandboxes, 0);
        assert.ok(await sandboxes.find(kept.id));
        assert.equal((await database.selectFrom("previews").selectAll().execute()).length, 0);
      });

      test("an unnamed image is removed with its snapshot, unless it was used since it was selected", async () => {
        const checkpoint = checkpointForTest({ hidden: true });
        await new CheckpointStore(database, eventsOf(database)).add(checkpoint);
        const store = new ImageStore(database);
        const image = imageForTest({ name: undefined, status: "ready", checkpointId: checkpoint.id });
        await store.add(image);
        const rows = new RowRetention(database);
        const [selected] = await rows.unnamedImages();
        await store.touch(image.id, new Date(7));
        assert.equal(await rows.removeUnnamedImage(selected!), false);
        const results = await everywhere(1, (each) =>
          new RowRetention(each).removeUnnamedImage({ ...selected!, lastUsedAt: new Date(7) }),
        );
        assert.equal(results.filter(Boolean).length, 1);
        assert.deepEqual(await unwanted(), [checkpoint.snapshotId]);
      });
    });
  });
}

/** The properties that have a value. */
function present(values: object): object {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}

/** A statement with its values in place, for EXPLAIN. */
function inlined({ sql: text, parameters }: CompiledQuery): string {
  const values = parameters.map((value) => (typeof value === "number" ? `${value}` : `'${String(value)}'`));
  let at = 0;
  return text.replaceAll(/\$\d+|\?/g, () => values[at++]!);
}
