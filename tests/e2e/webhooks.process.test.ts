import assert from "node:assert/strict";
import { createServer } from "node:http";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { Sandbox, type SandboxLifecycleEvent, verifyWebhook, Webhooks } from "@opencomputer/sdk";
import { eventOf, eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { connect, type SandboxEvent } from "@opensandbox/sdk";
import { endServer, type SpawnedServer, spawnServer, spawnServerOn } from "./spawn-server.ts";

const env = {
  OPENSANDBOX_VM_BACKEND: "fake",
  OPENSANDBOX_ALLOW_FAKE: "1",
  OPENSANDBOX_WEBHOOK_DESTINATIONS: "any",
};

interface Received {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

// The published client, unmodified, and a server in a process of its own.
suite("webhooks of the published client", () => {
  const stack = new AsyncDisposableStack();
  let world: SpawnedServer;
  let webhooks: Webhooks;
  let url: string;
  let status = 200;
  const received: Received[] = [];

  before(async () => {
    const receiver = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => (body += chunk.toString()));
      request.on("end", () => {
        received.push({ headers: request.headers as Record<string, string>, body });
        response.writeHead(status).end();
      });
    });
    await new Promise<void>((resolve) => receiver.listen(0, "127.0.0.1", resolve));
    stack.defer(() => void receiver.close());
    url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/hook`;
    world = stack.use(await spawnServer({ env, stays: true }));
    webhooks = new Webhooks({ apiUrl: world.url, apiKey: world.apiKey });
  });
  after(() => stack.disposeAsync());

  test("create, list, get, update and delete", async () => {
    const created = await webhooks.create({ url, name: "first", eventTypes: ["sandbox.*"], idempotencyKey: "key-1" });
    assert.match(created.secret ?? "", /^whsec_/);
    const again = await webhooks.create({ url, name: "first", eventTypes: ["sandbox.*"], idempotencyKey: "key-1" });
    assert.deepEqual(again, created);
    const { secret, ...shown } = created;
    assert.deepEqual(await webhooks.list(), [shown]);
    assert.deepEqual(await webhooks.get(created.id), shown);
    assert.equal(await webhooks.getSecret(created.id), secret);
    const rotated = await webhooks.update(created.id, { eventTypes: null, enabled: false, rotateSecret: true });
    assert.deepEqual([rotated.eventTypes, rotated.enabled], [[], false]);
    assert.equal(await webhooks.getSecret(created.id), rotated.secret);
    assert.notEqual(rotated.secret, secret);
    await webhooks.delete(created.id);
    assert.deepEqual(await webhooks.list(), []);
    await assert.rejects(webhooks.get(created.id), /404/);
    await assert.rejects(webhooks.create({ url, eventTypes: ["sandbox.exploded"] }), /400 — unknown event type/);
  });

  test("the life of a sandbox arrives in order, and each event verifies", async () => {
    const { id, secret = "" } = await webhooks.create({ url });
    received.length = 0;
    const sandbox = await Sandbox.create({ apiUrl: world.url, apiKey: world.apiKey });
    await sandbox.createPreviewURL({ port: 3000 });
    await sandbox.deletePreviewURL(3000);
    await sandbox.kill();
    await eventually("every event", () => received.length === 5);
    const events: SandboxLifecycleEvent[] = [];
    for (const { body, headers } of received) {
      const delivery = await verifyWebhook<SandboxLifecycleEvent>(body, headers, secret);
      assert.equal(delivery.deliveryId, headers["svix-id"]);
      assert.deepEqual([delivery.type, delivery.sandboxId], [delivery.event.type, sandbox.sandboxId]);
      events.push(delivery.event);
    }
    assert.deepEqual(
      events.map(({ type }) => type),
      [
        "sandbox.created",
        "sandbox.ready",
        "sandbox.preview_url.changed",
        "sandbox.preview_url.changed",
        "sandbox.stopped",
      ],
    );
    const last = events.at(-1);
    assert.ok(last?.type === "sandbox.stopped" && last.data.reason === "user_requested");
    await webhooks.delete(id);
  });

  test("a test event, its delivery and a redelivery", async () => {
    const { id } = await webhooks.create({ url, eventTypes: ["sandbox.checkpoint.created"] });
    received.length = 0;
    status = 500;
    const { ok, eventType, messageId = "" } = await webhooks.test(id);
    assert.deepEqual([ok, eventType], [true, "sandbox.checkpoint.created"]);
    const failed = await eventually("a failed attempt", async () => {
      const [delivery] = await webhooks.deliveries.list(id);
      return delivery?.responseStatusCode === 500 && delivery;
    });
    assert.deepEqual([failed.id, failed.status], [messageId, "pending"]);
    status = 200;
    assert.deepEqual(await webhooks.deliveries.redeliver(id, messageId), { ok: true });
    await eventually("the redelivery", async () => (await webhooks.deliveries.list(id))[0]?.status === "success");
    assert.deepEqual(new Set(received.map(({ headers }) => headers["svix-id"])), new Set([messageId]));
    const message = await webhooks.deliveries.get(id, messageId);
    assert.deepEqual(message.payload, JSON.parse(received[0]?.body ?? ""));
    await webhooks.delete(id);
  });
});

test("a client that follows events misses none over a kill and a restart of the server", async () => {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "osb-events-"));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  const port = String(await freePort());
  const options = { env: { ...env, OPENSANDBOX_TEST_PORT: port }, stays: true };
  const first = undo.use(await spawnServerOn(directory, options));
  const client = connect({ url: first.url, apiKey: first.apiKey });
  const stop = new AbortController();
  const seen: SandboxEvent[] = [];
  const following = (async () => {
    for await (const event of client.events.follow({ types: ["sandbox.created", "sandbox.stopped"] }, stop.signal)) {
      seen.push(event);
    }
  })();
  following.catch(() => undefined);
  undo.defer(() => stop.abort());
  const before = await eventually("the stream is open", async () => {
    const { id } = await client.sandboxes.create({});
    return seen.length > 0 && id;
  });
  await endServer(first.process, "SIGKILL");
  const second = undo.use(await spawnServerOn(directory, options));
  assert.equal(second.url, first.url);
  const { id } = await client.sandboxes.create({});
  await client.sandboxes.kill(id);
  await eventually(
    "the events of the second server",
    () => seen.at(-1)?.sandboxId === id && seen.at(-1)?.type === "sandbox.stopped",
  );
  const { events } = await client.events.list({ types: ["sandbox.created", "sandbox.stopped"], after: "0" });
  const from = events.findIndex((event) => event.id === seen[0]?.id);
  assert.deepEqual(seen, events.slice(from));
  assert.ok(seen.some((event) => event.sandboxId === before && event.type === "sandbox.created"));
  await assert.rejects(within("the end of the stream", (stop.abort(), following)), /canceled/);
});

async function freePort(): Promise<number> {
  const server = createTcpServer().listen(0, "127.0.0.1");
  await eventOf(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await eventOf(server, "close");
  return port;
}
