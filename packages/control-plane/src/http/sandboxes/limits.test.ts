import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { openDatabase } from "#database/database.ts";
import type { Limits } from "#lifecycle/limits.ts";
import { startForTest, type TestControlPlane, type TestOptions } from "#testing/start-for-test.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { parseSandboxId } from "@opensandbox/wire/ids.ts";

const keys = { first: "key-of-first", second: "key-of-second" };
type Name = keyof typeof keys;

interface World extends AsyncDisposable {
  readonly plane: TestControlPlane;
  ask(who: Name, method: string, path: string, body?: object): Promise<[status: number, reply: Record<string, string>]>;
  create(who: Name, memoryMB: number): Promise<string>;
  /** Memory of the organization's active sandboxes by their rows, in MiB. */
  used(who: Name): Promise<number>;
}

/** Two organizations on a server with limits. */
async function twoOrganizations(limits: Partial<Limits>, options: TestOptions = {}): Promise<World> {
  const plane = await startForTest({ storedKeys: true, limits, ...options });
  const database = await openDatabase(plane.database);
  for (const [name, key] of Object.entries(keys)) {
    await database.insertInto("organizations").values({ id: name, name, created_at: 0 }).execute();
    const key_hash = createHash("sha256").update(key).digest("hex");
    const row = { id: name, organization_id: name, name, key_hash, key_prefix: "key", created_at: 0 };
    await database.insertInto("api_keys").values(row).execute();
  }
  const ask: World["ask"] = (who, method, path, body) =>
    plane.ask(method, path, body, { headers: { "x-api-key": keys[who] } });
  return {
    plane,
    ask,
    async create(who, memoryMB) {
      const [status, reply] = await ask(who, "POST", "/api/sandboxes", { memoryMB });
      assert.equal(status, 201, JSON.stringify(reply));
      return reply["sandboxID"]!;
    },
    async used(who) {
      const rows = await database
        .selectFrom("sandboxes")
        .select("memory_mib")
        .where("organization_id", "=", who)
        .where("state", "=", "running")
        .execute();
      return rows.reduce((sum, { memory_mib }) => sum + memory_mib, 0);
    },
    async [Symbol.asyncDispose]() {
      await database.destroy();
      await plane[Symbol.asyncDispose]();
    },
  };
}

test("concurrent creates cannot take more memory than their organization may have", async () => {
  await using world = await twoOrganizations({ organizationMemoryMib: 4096 });
  const creates = await Promise.all(
    Array.from({ length: 12 }, () => world.ask("first", "POST", "/api/sandboxes", { memoryMB: 1024 })),
  );
  const statuses = creates.map(([status]) => status);
  assert.equal(statuses.filter((status) => status === 201).length, 4);
  assert.equal(statuses.filter((status) => status === 429).length, 8);
  const refused = creates.find(([status]) => status === 429)?.[1];
  assert.equal(refused?.["code"], "quota_exceeded");
  assert.match(
    refused["error"] ?? "",
    /^memory limit of the organization reached: its sandboxes have 4096 of 4096 MiB/,
  );
  assert.equal(await world.used("first"), 4096);
  // The other organization has a limit of its own.
  await world.create("second", 4096);
});

test("a sandbox that grows by request or by its guest stays within its organization's memory", async () => {
  await using world = await twoOrganizations({ organizationMemoryMib: 4096 });
  const id = await world.create("first", 1024);
  await world.create("first", 1024);
  const scale = (memoryMB: number) => world.ask("first", "POST", `/api/sandboxes/${id}/scale`, { memoryMB });
  const scaleFromInside = (memoryMB: number) => world.plane.worker.askToScale(parseSandboxId(id), { memoryMB });

  const [status, { code, error }] = await scale(4096);
  assert.deepEqual([status, code], [429, "quota_exceeded"]);
  assert.match(error ?? "", /its sandboxes have 1024 of 4096 MiB, and this one needs 4096 MiB/);
  const inside = await scaleFromInside(4096);
  assert.deepEqual([inside.status, (inside.body as { code: string }).code], [429, "quota_exceeded"]);
  assert.equal((await scaleFromInside(2048)).status, 200);
  assert.equal(await world.used("first"), 3072);
  assert.equal((await scale(1024))[0], 200);
  assert.equal(await world.used("first"), 2048);
});

test("sandboxes that grow at the same time cannot exceed the memory together", async () => {
  await using world = await twoOrganizations({ organizationMemoryMib: 4096 });
  const ids = [await world.create("first", 1024), await world.create("first", 1024)];
  const scaled = await Promise.all(
    ids.map((id) => world.ask("first", "POST", `/api/sandboxes/${id}/scale`, { memoryMB: 3072 })),
  );
  assert.deepEqual(new Set(scaled.map(([status]) => status)), new Set([200, 429]));
  assert.equal(await world.used("first"), 4096);
});

test("growth that fails gives its memory back", async () => {
  await using world = await twoOrganizations({ organizationMemoryMib: 4096 });
  const id = await world.create("first", 1024);
  const scale = () => world.ask("first", "POST", `/api/sandboxes/${id}/scale`, { memoryMB: 4096 });
  world.plane.worker.onScale = () => ({ done: false, because: "the guest refuses" });
  assert.equal((await scale())[0], 409);
  world.plane.worker.onScale = () => Promise.reject(new Error("the machine hangs"));
  assert.equal((await scale())[0], 500);
  assert.equal(await world.used("first"), 1024);
  await world.create("first", 3072);
});

test("hibernated sandboxes take no memory, and a wake counts again", async () => {
  await using world = await twoOrganizations({ organizationMemoryMib: 2048 });
  const id = await world.create("first", 2048);
  assert.equal((await world.ask("first", "POST", `/api/sandboxes/${id}/hibernate`))[0], 200);
  const other = await world.create("first", 1024);
  const [status, { code }] = await world.ask("first", "POST", `/api/sandboxes/${id}/wake`);
  assert.deepEqual([status, code], [429, "quota_exceeded"]);
  await world.ask("first", "DELETE", `/api/sandboxes/${other}`);
  assert.equal((await world.ask("first", "POST", `/api/sandboxes/${id}/wake`))[0], 200);
});

test("all sandboxes together stay within the server's memory", async () => {
  await using world = await twoOrganizations({ memoryMib: 3072 });
  await world.create("first", 2048);
  const [status, { code, error }] = await world.ask("second", "POST", "/api/sandboxes", { memoryMB: 2048 });
  assert.deepEqual([status, code], [503, "no_capacity"]);
  assert.match(error ?? "", /the sandboxes of this server have 2048 of 3072 MiB/);
  await world.create("second", 1024);
});

test("what counts is the rows, so a new server counts the same", async () => {
  await using world = await twoOrganizations({ organizationMemoryMib: 2048 });
  await world.create("first", 1024);
  const { worker, database } = world.plane;
  // Beside the first server, as while one replaces the other.
  await using next = await startForTest({
    ...{ storedKeys: true, worker, database, limits: { organizationMemoryMib: 2048 } },
    atEnd: () => "leave",
  });
  const ask = (memoryMB: number) =>
    next.ask("POST", "/api/sandboxes", { memoryMB }, { headers: { "x-api-key": keys.first } });
  assert.equal((await ask(2048))[0], 429);
  assert.equal((await ask(1024))[0], 201);
  assert.equal((await ask(256))[0], 429);
});

const mib = 2 ** 20;

test("an organization at its disk limit creates, captures and wakes nothing more, and others do", async () => {
  await using world = await twoOrganizations({ organizationDiskMib: 100 });
  const { worker } = world.plane;
  const [writer, sleeper] = [await world.create("first", 1024), await world.create("first", 1024)];
  assert.equal((await world.ask("first", "POST", `/api/sandboxes/${sleeper}/hibernate`))[0], 200);
  const checkpoint = (name: string) => world.ask("first", "POST", `/api/sandboxes/${writer}/checkpoints`, { name });
  worker.host.machine(parseSandboxId(writer)).diskBytes = 97 * mib;
  assert.equal((await checkpoint("fits"))[0], 201);

  worker.host.machine(parseSandboxId(writer)).diskBytes = 99 * mib;
  const refusals = [
    await world.ask("first", "POST", "/api/sandboxes", {}),
    await checkpoint("too much"),
    await world.ask("first", "POST", `/api/sandboxes/${sleeper}/wake`),
  ];
  for (const [status, { code, error }] of refusals) {
    assert.deepEqual([status, code], [429, "quota_exceeded"]);
    assert.match(error ?? "", /^disk limit of the organization reached: .* take 10[0-9] of 100 MiB: delete/);
  }
  // Hibernating frees memory, and the sandbox has its disk already.
  assert.equal((await world.ask("first", "POST", `/api/sandboxes/${writer}/hibernate`))[0], 200);
  await world.create("second", 1024);
});

test("deleting what takes the disk makes room at once", async () => {
  await using world = await twoOrganizations({ organizationDiskMib: 100 });
  const id = await world.create("first", 1024);
  world.plane.worker.host.machine(parseSandboxId(id)).diskBytes = 200 * mib;
  assert.equal((await world.ask("first", "POST", "/api/sandboxes", {}))[0], 429);
  await world.ask("first", "DELETE", `/api/sandboxes/${id}`);
  await world.create("first", 1024);
});

test("all organizations together stay within the server's disk", async () => {
  await using world = await twoOrganizations({ diskMib: 100 });
  const id = await world.create("first", 1024);
  world.plane.worker.host.machine(parseSandboxId(id)).diskBytes = 100 * mib;
  const [status, { code }] = await world.ask("second", "POST", "/api/sandboxes", {});
  assert.deepEqual([status, code], [503, "no_capacity"]);
});

test("a sandbox that still writes beyond the disk limit is hibernated, and those that do not write run on", async () => {
  await using world = await twoOrganizations({ organizationDiskMib: 100 }, { tuning: { diskSweepMs: 20 } });
  const [writer, reader] = [await world.create("first", 1024), await world.create("first", 1024)];
  const machine = world.plane.worker.host.machine(parseSandboxId(writer));
  machine.diskBytes = 150 * mib;
  const state = async (id: string) => (await world.ask("first", "GET", `/api/sandboxes/${id}`))[1]["status"];
  const growing = setInterval(() => (machine.diskBytes += 20 * mib), 20);
  try {
    await eventually("the writer is hibernated", async () => (await state(writer)) === "hibernated");
  } finally {
    clearInterval(growing);
  }
  assert.equal(await state(reader), "running");
  const warned = world.plane.logged.find(({ message }) => message.includes("still writes beyond"));
  assert.match(JSON.stringify(warned?.fields), /disk limit of the organization reached/);
});
