import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { verifyWebhook } from "@opencomputer/sdk";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { eventReplyOf } from "@opensandbox/wire/public/events.ts";
import { deliveryBodyOf } from "@opensandbox/wire/public/webhooks.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { post } from "#http/webhooks/post.ts";
import { deleteSandbox } from "#sandboxes/delete-sandbox.ts";
import { hibernateSandbox } from "#sandboxes/hibernate-sandbox.ts";
import { wakeSandbox } from "#sandboxes/wake-sandbox.ts";
import { contextForTest, type TestContext } from "#testing/context-for-test.ts";
import { DeliveryStore } from "./delivery-store.ts";
import { Dispatcher } from "./dispatcher.ts";
import { WebhookStore } from "./webhook-store.ts";
import type { DeliveryRequest } from "./webhook.ts";
import { type NewWebhook, Webhooks } from "./webhooks.ts";

const key = "ab".repeat(32);
const send = (request: DeliveryRequest): Promise<number> => post(request, { allowsPrivate: true });

interface Received {
  /** The order of the requests. */
  readonly id: string;
  readonly type: string;
  readonly sandboxId: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** A receiver whose answers the test chooses; by default it accepts. */
class Receiver implements AsyncDisposable {
  readonly received: Received[] = [];
  answer: (response: ServerResponse, request: IncomingMessage) => void = (response) =>
    void response.writeHead(204).end();
  readonly #server = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk: Buffer) => (body += chunk.toString()));
    request.on("end", () => {
      const { type, sandboxId } = JSON.parse(body) as { type: string; sandboxId: string };
      const headers = request.headers as Record<string, string>;
      this.received.push({ id: headers["svix-id"] ?? "", type, sandboxId, headers, body });
      this.answer(response, request);
    });
  });

  async url(): Promise<string> {
    if (!this.#server.listening) await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/hook`;
  }

  /** The types of the events of one sandbox, in the order of the requests. */
  typesOf(id: SandboxId): readonly string[] {
    return this.received.filter(({ sandboxId }) => sandboxId === id).map(({ type }) => type.replace("sandbox.", ""));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

interface World extends AsyncDisposable {
  readonly test: TestContext;
  readonly webhooks: Webhooks;
  readonly logged: readonly string[];
  dispatcher: Dispatcher;
  /** Another dispatcher on the same database. */
  open(): Dispatcher;
  add(wanted: Partial<NewWebhook> & { readonly url: string }): Promise<string>;
  /** Attempts deliveries until none is due. */
  deliver(): Promise<void>;
  /** Lets time pass in steps, and attempts the due deliveries after each. */
  pass(seconds: number, stepSeconds: number): Promise<void>;
  /** Another server on the same database takes over. */
  restart(): Promise<void>;
  hibernate(id: SandboxId): Promise<void>;
  wake(id: SandboxId): Promise<void>;
}

async function worldForTest({ attemptMs = 5000 } = {}): Promise<World> {
  const context = await contextForTest();
  const { database, clock, organizationId } = context;
  const { events, sandboxes } = context.context.stores;
  const webhookStore = new WebhookStore(database, key);
  const deliveries = new DeliveryStore(database, (event) => deliveryBodyOf(eventReplyOf(event, "sandbox.test")));
  const logged: string[] = [];
  const log = (level: string, message: string, fields: object = {}): void => {
    logged.push(`${level} ${message} ${JSON.stringify(fields)}`);
  };
  const open = (): Dispatcher =>
    new Dispatcher({ webhooks: webhookStore, deliveries, events, clock, log, attemptMs, post: send });
  const world: World = {
    test: context,
    logged,
    dispatcher: open(),
    open,
    webhooks: new Webhooks({
      webhooks: webhookStore,
      deliveries,
      sandboxes,
      dispatcher: { run: () => world.dispatcher.run() },
      allowsPrivate: true,
      clock,
    }),
    async add(wanted) {
      const made = await world.webhooks.create(organizationId, { eventTypes: [], enabled: true, ...wanted }, undefined);
      return made.webhook.id;
    },
    async deliver() {
      world.dispatcher.run();
      await world.dispatcher.idle();
    },
    async pass(seconds, stepSeconds) {
      for (let passed = 0; passed < seconds; passed += stepSeconds) {
        clock.advance(stepSeconds);
        await world.deliver();
      }
    },
    async restart() {
      await world.dispatcher[Symbol.asyncDispose]();
      world.dispatcher = open();
    },
    async hibernate(id) {
      await hibernateSandbox(context.context, organizationId, id);
    },
    async wake(id) {
      await wakeSandbox(context.context, { organizationId, id });
    },
    async [Symbol.asyncDispose]() {
      await world.dispatcher[Symbol.asyncDispose]();
      await context[Symbol.asyncDispose]();
    },
  };
  return world;
}

const hour = 3600;

test("a webhook receives the events that it selects from its creation on, signed and in order", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  const { organizationId } = world.test;
  const before = await world.test.create();
  const id = await world.add({ url: await receiver.url(), secret: "testsecret" });
  const sandbox = await world.test.create();
  await world.hibernate(sandbox.id);
  await deleteSandbox(world.test.context, organizationId, before.id);
  await world.deliver();
  assert.deepEqual(receiver.typesOf(sandbox.id), ["created", "ready", "hibernated"]);
  assert.deepEqual(receiver.typesOf(before.id), ["stopped"]);
  const [first] = receiver.received;
  assert.ok(first !== undefined);
  const nowSeconds = world.test.clock.now() / 1000;
  const delivery = await verifyWebhook(first.body, first.headers, "testsecret", { nowSeconds });
  assert.deepEqual([delivery.type, delivery.sandboxId], ["sandbox.created", sandbox.id]);
  const listed = await world.webhooks.deliveries(organizationId, id);
  assert.deepEqual(new Set(listed.map(({ status }) => status)), new Set(["success"]));
  assert.equal(listed.length, 4);
});

test("types and sandbox select, and a disabled webhook receives nothing until it is enabled", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  const { organizationId } = world.test;
  const url = await receiver.url();
  const [one, other] = [await world.test.create(), await world.test.create()];
  const id = await world.add({ url, sandboxId: one.id, eventTypes: ["sandbox.hibernated", "sandbox.checkpoint.*"] });
  for (const { id: sandbox } of [one, other]) await world.hibernate(sandbox);
  await world.wake(one.id);
  await world.deliver();
  assert.deepEqual(
    receiver.received.map(({ type, sandboxId }) => [type, sandboxId]),
    [["sandbox.hibernated", one.id]],
  );

  await world.webhooks.update(organizationId, id, { enabled: false, rotateSecret: false });
  await world.hibernate(one.id);
  await world.wake(one.id);
  await world.deliver();
  await world.webhooks.update(organizationId, id, { enabled: true, rotateSecret: false });
  await world.hibernate(one.id);
  await world.deliver();
  assert.equal(receiver.received.length, 2);
});

test("a receiver that is down for a day and comes back gets every event once, in order", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  const id = await world.add({ url: await receiver.url() });
  receiver.answer = (response) => void response.writeHead(500).end();
  const [one, other] = [await world.test.create(), await world.test.create()];
  await world.pass(12 * hour, 600);
  await world.hibernate(one.id);
  await world.wake(one.id);
  await world.pass(11 * hour, 600);
  const failedAttempts = receiver.received.length;
  // Each of both sandboxes has one event at the head; the others wait behind it.
  assert.ok(failedAttempts < 2 * 40, `${failedAttempts} attempts`);
  assert.deepEqual(new Set(receiver.received.map(({ type }) => type)), new Set(["sandbox.created"]));

  receiver.received.length = 0;
  receiver.answer = (response) => void response.writeHead(200).end();
  await world.pass(hour, 600);
  assert.deepEqual(receiver.typesOf(one.id), ["created", "ready", "hibernated", "resumed"]);
  assert.deepEqual(receiver.typesOf(other.id), ["created", "ready"]);
  const ids = receiver.received.map((each) => each.id);
  assert.equal(new Set(ids).size, ids.length);
  const listed = await world.webhooks.deliveries(world.test.organizationId, id);
  assert.ok(listed.every(({ status }) => status === "success"));
});

test("a delivery is given up after 24 hours, and the next event of the sandbox has its own attempts", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  const id = await world.add({ url: await receiver.url(), eventTypes: ["sandbox.created", "sandbox.hibernated"] });
  receiver.answer = (response) => void response.writeHead(503).end();
  const sandbox = await world.test.create();
  await world.pass(23 * hour, hour / 2);
  await world.hibernate(sandbox.id);
  await world.pass(3 * hour, hour / 2);
  const statuses = async () =>
    (await world.webhooks.deliveries(world.test.organizationId, id)).map(({ eventType, status, attempts, error }) => [
      eventType,
      status,
      attempts > 1,
      error,
    ]);
  const error = "the receiver answered with status 503";
  assert.deepEqual(await statuses(), [
    ["sandbox.hibernated", "pending", true, error],
    ["sandbox.created", "failed", true, error],
  ]);
  assert.match(world.logged.join("\n"), /warn gave up a webhook delivery after its last attempt .*503/);
  assert.ok(!world.logged.join("\n").includes("/hook"), "the log contains no URL");
  await world.pass(24 * hour, hour / 2);
  assert.deepEqual(
    (await statuses()).map(([, status]) => status),
    ["failed", "failed"],
  );
});

test("deliveries survive the end of the server, and its restart sends none twice", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  await world.add({ url: await receiver.url() });
  receiver.answer = (response) => void response.writeHead(500).end();
  const sandbox = await world.test.create();
  await world.deliver();
  await world.restart();
  receiver.received.length = 0;
  receiver.answer = (response) => void response.writeHead(200).end();
  await world.pass(60, 10);
  await world.restart();
  await world.pass(2 * hour, 600);
  assert.deepEqual(receiver.typesOf(sandbox.id), ["created", "ready"]);
});

test("an attempt that a shutdown interrupts is made again at once, under the same id", async () => {
  await using world = await worldForTest({ attemptMs: 60_000 });
  await using receiver = new Receiver();
  await world.add({ url: await receiver.url(), eventTypes: ["sandbox.created"] });
  receiver.answer = () => undefined;
  await world.test.create();
  world.dispatcher.run();
  await eventually("the request arrives", () => receiver.received.length === 1);
  await world.restart();
  receiver.answer = (response) => void response.writeHead(200).end();
  await world.deliver();
  assert.equal(receiver.received.length, 2);
  assert.equal(receiver.received[0]?.id, receiver.received[1]?.id);
});

test("two servers on one database make each attempt once", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  await world.add({ url: await receiver.url() });
  await using second = world.open();
  const sandboxes = await Promise.all(Array.from({ length: 5 }, () => world.test.create()));
  second.run();
  world.dispatcher.run();
  await Promise.all([second.idle(), world.dispatcher.idle()]);
  await world.deliver();
  for (const { id } of sandboxes) assert.deepEqual(receiver.typesOf(id), ["created", "ready"]);
});

test("a silent receiver of many sandboxes' events delays no other destination", async () => {
  // No attempt of the silent receiver ends during the test.
  await using world = await worldForTest({ attemptMs: 600_000 });
  await using silent = new Receiver();
  await using quick = new Receiver();
  silent.answer = () => undefined;
  await world.add({ url: await silent.url() });
  await world.add({ url: await quick.url() });
  const sandboxes = await Promise.all(Array.from({ length: 12 }, () => world.test.create()));
  world.dispatcher.run();
  await eventually("the quick receiver has everything", () => quick.received.length === 24);
  for (const { id } of sandboxes) assert.deepEqual(quick.typesOf(id), ["created", "ready"]);
  assert.ok(silent.received.length <= 4, `${silent.received.length} connections to the silent receiver`);
});

test("redirects, early closes and refused connections are failed attempts", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  const { organizationId } = world.test;
  const eventTypes = ["sandbox.created"];
  const redirected = await world.add({ url: await receiver.url(), eventTypes });
  const refused = await world.add({ url: "http://127.0.0.1:1/", eventTypes });
  receiver.answer = (response) => void response.writeHead(302, { location: "http://127.0.0.1:1/" }).end();
  await world.test.create();
  await world.deliver();
  const [first] = await world.webhooks.deliveries(organizationId, redirected);
  assert.deepEqual(
    [first?.status, first?.responseStatus, first?.error],
    ["pending", 302, "the receiver answered with status 302"],
  );
  const [second] = await world.webhooks.deliveries(organizationId, refused);
  assert.deepEqual([second?.status, second?.responseStatus], ["pending", undefined]);
  assert.match(second?.error ?? "", /ECONNREFUSED/);
  receiver.answer = (_response, request) => void request.socket.destroy();
  await world.pass(10, 10);
  const [third] = await world.webhooks.deliveries(organizationId, redirected);
  assert.deepEqual([third?.responseStatus, third?.attempts], [undefined, 2]);
});

test("a redelivery has the same id and body, and holds up no later event", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  const { organizationId } = world.test;
  const id = await world.add({ url: await receiver.url() });
  const sandbox = await world.test.create();
  await world.deliver();
  const [created] = receiver.received;
  receiver.answer = (response) => void response.writeHead(500).end();
  await world.webhooks.redeliver(organizationId, id, created?.id ?? "");
  await world.deliver();
  receiver.answer = (response, request) => {
    response.writeHead(request.headers["svix-id"] === created?.id ? 500 : 200).end();
  };
  await world.hibernate(sandbox.id);
  await world.deliver();
  const [, , again, hibernated] = receiver.received;
  assert.deepEqual([again?.id, again?.body], [created?.id, created?.body]);
  assert.equal(hibernated?.type, "sandbox.hibernated");
  await world.webhooks.remove(organizationId, id);
  await assert.rejects(world.webhooks.deliveries(organizationId, id), /webhook not found/);
});

test("a test event goes to its webhook alone, of a type that it receives", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  await using other = new Receiver();
  const { organizationId } = world.test;
  const id = await world.add({ url: await receiver.url(), eventTypes: ["sandbox.stopped"], enabled: false });
  await world.add({ url: await other.url() });
  const { eventType, deliveryId } = await world.webhooks.test(organizationId, id);
  assert.equal(eventType, "sandbox.stopped");
  await world.deliver();
  assert.deepEqual(
    receiver.received.map((each) => [each.id, each.type]),
    [[deliveryId, "sandbox.stopped"]],
  );
  assert.equal(other.received.length, 0);
});

test("after a rotation both secrets verify for a day, and then only the new one", async () => {
  await using world = await worldForTest();
  await using receiver = new Receiver();
  const { organizationId, clock } = world.test;
  const id = await world.add({ url: await receiver.url(), secret: "the first secret".replaceAll(" ", "-") });
  const { secret = "" } = await world.webhooks.update(organizationId, id, { rotateSecret: true });
  assert.equal(await world.webhooks.secret(organizationId, id), secret);
  const accepts = async (by: string): Promise<boolean> => {
    const last = receiver.received.at(-1)!;
    const options = { nowSeconds: clock.now() / 1000 };
    return await verifyWebhook(last.body, last.headers, by, options).then(
      () => true,
      () => false,
    );
  };
  await world.webhooks.test(organizationId, id);
  await world.deliver();
  assert.deepEqual([await accepts(secret), await accepts("the-first-secret")], [true, true]);
  clock.advance(25 * hour);
  await world.webhooks.test(organizationId, id);
  await world.deliver();
  assert.deepEqual([await accepts(secret), await accepts("the-first-secret")], [true, false]);
});

test("the database holds no secret in plain text", async () => {
  await using world = await worldForTest();
  await world.add({ url: "http://127.0.0.1:1/", secret: "plain-text-secret" });
  const rows = await world.test.database.selectFrom("webhooks").selectAll().execute();
  assert.ok(!JSON.stringify(rows).includes("plain-text-secret"));
});
