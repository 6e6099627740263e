import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { newSandboxId, type SandboxId } from "@opensandbox/wire/ids.ts";
import type { MachineUse } from "@opensandbox/wire/worker/worker.ts";
import type { Database } from "#database/database.ts";
import { EventStore } from "#events/event-store.ts";
import type { SandboxEvent } from "#events/event.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { SandboxStore } from "#sandboxes/sandbox-store.ts";
import { MeasuredUse } from "#usage/measured-use.ts";
import { UsageStore } from "#usage/usage-store.ts";
import { DeliveryStore } from "#webhooks/delivery-store.ts";
import { WebhookStore } from "#webhooks/webhook-store.ts";
import { ManualClock } from "./manual-clock.ts";

const organizationId = "org-events";
const limits = { maxSandboxes: 10_000 };
const bodyOf = ({ id }: SandboxEvent): string => JSON.stringify({ id });
const everything = { busy: [], limit: 1000, roomFor: () => 1000 };

/**
 * The promises of events, webhooks and usage, on one engine.
 * @param open an empty database, opened as by several servers
 */
export function eventContract(engine: string, open: () => Promise<readonly Database[]>): void {
  suite(`events on ${engine}`, () => {
    const clock = new ManualClock();
    let databases: readonly Database[];
    let database: Database;

    before(async () => {
      databases = await open();
      database = databases[0] ?? assert.fail("no database");
      await database
        .insertInto("organizations")
        .values({ id: organizationId, name: "events", created_at: 0 })
        .execute();
    });
    after(() => Promise.all([...new Set(databases)].map((each) => each.destroy())));

    /** A sandbox that is created and starts. */
    async function live(on: Database): Promise<Sandbox> {
      const store = new SandboxStore(on, new EventStore(on, clock));
      const sandbox = sandboxFor(clock);
      assert.equal(await store.add(sandbox, limits), "added");
      return await store.move(sandbox, "started");
    }

    const typesOf = (events: readonly SandboxEvent[], id: SandboxId): readonly string[] =>
      events.filter(({ sandboxId }) => sandboxId === id).map(({ facts }) => facts.type);

    test("a reader that follows while several servers write sees each event once, in order, and misses none", async () => {
      const events = new EventStore(database, clock);
      let cursor = await events.head();
      const seen: SandboxEvent[] = [];
      const read = async (): Promise<void> => {
        const page = await events.after(cursor, { organizationId }, 7);
        seen.push(...page.events);
        ({ cursor } = page);
      };
      const ids: SandboxId[] = [];
      const writing = Promise.all(
        databases.map(async (each) => {
          for (let count = 0; count < 10; count += 1) {
            const sandbox = await live(each);
            ids.push(sandbox.id);
            const hibernating = await new SandboxStore(each, new EventStore(each, clock)).move(sandbox, "hibernate");
            await new SandboxStore(each, new EventStore(each, clock)).move(hibernating, "stored");
          }
        }),
      );
      const done = new AbortController();
      const ended = writing.finally(() => done.abort());
      while (!done.signal.aborted) await read();
      await ended;
      while (seen.length < 3 * ids.length) await read();
      const sequences = seen.map(({ sequence }) => sequence);
      assert.deepEqual(
        sequences,
        sequences.toSorted((a, b) => a - b),
      );
      assert.equal(new Set(sequences).size, 3 * ids.length);
      for (const id of ids) {
        assert.deepEqual(typesOf(seen, id), ["sandbox.created", "sandbox.ready", "sandbox.hibernated"]);
      }
      const newest = await events.newest({ organizationId, types: ["sandbox.ready"] }, 5);
      assert.equal(newest.events.length, 5);
    });

    test("several servers make each delivery once, claim it once, and keep the order of a sandbox", async () => {
      const webhooks = new WebhookStore(database, "ab".repeat(32));
      const now = new Date(clock.now());
      const webhook = { id: "wh_1", organizationId, url: "http://a/", eventTypes: [], enabled: true };
      const wanted = { secret: "secret", idempotencyKey: "key" };
      const made = await webhooks.add({ ...webhook, createdAt: now, updatedAt: now }, wanted);
      assert.equal(made.added, true);
      assert.equal(
        (await webhooks.add({ ...webhook, id: "wh_2", createdAt: now, updatedAt: now }, wanted)).added,
        false,
      );
      assert.equal(await webhooks.secret(organizationId, "wh_1"), "secret");
      const sandboxes = [await live(database), await live(database), await live(database)];

      const stores = databases.map((each) => new DeliveryStore(each, bodyOf));
      const deliveries = stores[0] ?? assert.fail("no store");
      await Promise.all(
        stores.map(async (store) => {
          while (await store.fanOut(clock.now()));
        }),
      );
      assert.equal((await deliveries.list("wh_1", 100)).length, 2 * sandboxes.length);
      const claimed = (await Promise.all(stores.map((store) => store.claimDue(clock.now(), everything)))).flat();
      assert.equal(claimed.length, sandboxes.length, "the second event of each sandbox waits for the first");
      assert.equal(new Set(claimed.map(({ id }) => id)).size, sandboxes.length);

      const [failed, ...accepted] = claimed;
      assert.equal(await deliveries.finish(failed?.id ?? "", { status: 500 }, clock.now()), false);
      for (const { id } of accepted) await deliveries.finish(id, { status: 204 }, clock.now());
      const next = await deliveries.claimDue(clock.now(), everything);
      assert.equal(next.length, accepted.length, "the failed one holds up its own sandbox only");
      for (const { id } of next) await deliveries.release(id);
      assert.deepEqual(
        (await deliveries.claimDue(clock.now(), everything)).map(({ id }) => id).toSorted(),
        next.map(({ id }) => id).toSorted(),
      );
      assert.equal((await deliveries.get("wh_1", failed?.id ?? "")).error, "the receiver answered with status 500");
      await webhooks.remove(organizationId, "wh_1");
      assert.deepEqual(await deliveries.list("wh_1", 100), []);
    });

    test("what a machine has used counts once, when several servers store it at the same time", async () => {
      const sandbox = await live(database);
      const from = clock.now();
      clock.advance(60);
      const use = {
        sandboxId: sandbox.id,
        process: `${sandbox.id}.1`,
        cpuMs: 1000,
        egressBytes: 2 ** 40,
        ended: false,
      };
      const count = (uses: readonly MachineUse[]): Promise<unknown> =>
        Promise.all(databases.map((each) => new MeasuredUse(each).count(uses, clock.now(), 60_000)));
      await count([use]);
      clock.advance(60);
      await count([{ ...use, cpuMs: 1500 }]);
      const sums = await new MeasuredUse(database).ofOrganization(organizationId, { from, to: clock.now() });
      assert.deepEqual(sums.get(sandbox.id), { cpu: 1500, egress: 2 ** 40 });
    });

    test("usage counts the time between events", async () => {
      const store = new SandboxStore(database, new EventStore(database, clock));
      const usage = new UsageStore(database);
      const from = clock.now();
      const sandbox = await live(database);
      clock.advance(10);
      const scaled = await store.update(sandbox.id, { memoryMib: 2048 });
      clock.advance(10);
      await store.move(scaled, "crashed");
      clock.advance(10);
      const window = { from, to: clock.now() };
      const own = (await usage.ofOrganization(organizationId, window)).find(
        ({ sandboxId }) => sandboxId === sandbox.id,
      );
      assert.deepEqual(own, { sandboxId: sandbox.id, memory: 30_720_000, vcpus: 20_000, disk: 0 });
      assert.equal((await usage.factsOf([sandbox.id])).get(sandbox.id)?.state, "error");
      assert.deepEqual(await usage.memoryOf(sandbox.id, window), [
        { memoryMib: 1024, from, to: from + 10_000 },
        { memoryMib: 2048, from: from + 10_000, to: from + 20_000 },
      ]);
    });
  });
}

function sandboxFor(clock: ManualClock): Sandbox {
  return {
    ...{ id: newSandboxId(), organizationId, state: "creating", generation: 1, workerId: "worker-1", hidden: false },
    ...{ image: "default", vcpus: 1, memoryMib: 1024, workspaceMib: 20_480, idleTimeoutSeconds: 0, alias: "" },
    ...{ envs: {}, metadata: {}, tags: {}, networkEnabled: true, ephemeral: false, lastPatchSequence: 0 },
    ...{ bootsOnUse: false, scalingLocked: false, createdAt: new Date(clock.now()) },
  };
}
