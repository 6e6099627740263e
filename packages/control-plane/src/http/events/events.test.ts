import assert from "node:assert/strict";
import { request as startRequest, type IncomingMessage } from "node:http";
import { test } from "node:test";
import type { EventReply } from "@opensandbox/wire/public/events.ts";
import { eventOf, eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { startAfterCrash, startForTest, testKey, type TestControlPlane } from "#testing/start-for-test.ts";

interface Page {
  readonly data: readonly EventReply[];
  readonly nextCursor: string;
  readonly hasMore: boolean;
}

async function page(world: TestControlPlane, query = ""): Promise<Page> {
  const [status, reply] = await world.ask("GET", `/api/events?limit=1000${query}`);
  assert.equal(status, 200, JSON.stringify(reply));
  return reply as Page;
}

async function typesOf(world: TestControlPlane, id: string): Promise<readonly string[]> {
  return (await page(world, `&sandboxId=${id}`)).data.map(({ type }) => type.replace("sandbox.", ""));
}

interface Stream extends Disposable {
  /** The events so far, with their cursors. */
  readonly events: readonly { readonly id: string; readonly event: EventReply }[];
  readonly response: IncomingMessage;
}

async function follow(world: TestControlPlane, query = "", headers: Record<string, string> = {}): Promise<Stream> {
  const request = startRequest(`${world.url}/api/events${query}`, {
    headers: { "x-api-key": testKey, accept: "text/event-stream", ...headers },
    agent: false,
  });
  request.end();
  const [response] = (await eventOf(request, "response")) as [IncomingMessage];
  assert.equal(response.statusCode, 200);
  request.on("error", () => undefined);
  response.on("error", () => undefined);
  const events: { id: string; event: EventReply }[] = [];
  let text = "";
  response.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
    const parts = text.split("\n\n");
    text = parts.pop() ?? "";
    for (const part of parts) {
      const id = /^id: (.+)$/m.exec(part)?.[1];
      const data = /^data: (.+)$/m.exec(part)?.[1];
      if (id !== undefined && data !== undefined) events.push({ id, event: JSON.parse(data) as EventReply });
    }
  });
  return { events, response, [Symbol.dispose]: () => void request.destroy() };
}

test("the life of a sandbox is a list of events in order", async () => {
  await using world = await startForTest();
  const id = await world.create();
  await world.ask("POST", `/api/sandboxes/${id}/checkpoints`, { name: "one" });
  const checkpoint = await eventually("the checkpoint is ready", async () => {
    const [, found] = await world.ask("GET", `/api/sandboxes/${id}/checkpoints`);
    return found.find(({ status }: { status: string }) => status === "ready");
  });
  await world.ask("POST", `/api/sandboxes/${id}/scale`, { memoryMB: 2048 });
  await world.ask("POST", `/api/sandboxes/${id}/preview`, { port: 3000 });
  await world.call("DELETE", `/api/sandboxes/${id}/preview/3000`);
  await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
  await world.ask("POST", `/api/sandboxes/${id}/wake`, {});
  const [, fork] = await world.ask("POST", `/api/sandboxes/from-checkpoint/${checkpoint.id}`, {});
  await world.call("DELETE", `/api/sandboxes/${id}`);

  const { data } = await page(world, `&sandboxId=${id}`);
  assert.deepEqual(
    data.map(({ type, data: facts }) => [type, facts]),
    [
      ["sandbox.created", { template: "default" }],
      ["sandbox.ready", {}],
      ["sandbox.checkpoint.created", { checkpointId: checkpoint.id }],
      ["sandbox.scaled", { cpuCount: 1, memoryMB: 2048 }],
      ["sandbox.preview_url.changed", { port: 3000, url: `https://${id}-p3000.sandbox.test` }],
      ["sandbox.preview_url.changed", { port: 3000, url: null }],
      ["sandbox.hibernated", {}],
      ["sandbox.resumed", {}],
      ["sandbox.stopped", { reason: "user_requested" }],
    ],
  );
  for (const event of data) assert.deepEqual([event.orgId, event.sandboxId], ["org-default", id]);
  const ofFork = (await page(world, `&sandboxId=${fork.sandboxID}`)).data;
  assert.deepEqual(
    ofFork.map(({ type }) => type),
    ["sandbox.created", "sandbox.forked", "sandbox.ready"],
  );
  assert.deepEqual(ofFork[1]?.data, { parentId: id });
});

test("a create that fails records its end, and the build of an image records nothing", async () => {
  await using world = await startForTest();
  world.worker.onStart = () => {
    throw new Error("no room");
  };
  assert.equal((await world.ask("POST", "/api/sandboxes", {}))[0], 500);
  const { data } = await page(world);
  assert.deepEqual(
    data.map(({ type }) => type),
    ["sandbox.created", "sandbox.stopped"],
  );
  assert.deepEqual(data[1]?.data, { reason: "crash" });
});

test("a kill of the server neither loses an event nor repeats one", async () => {
  await using world = await startForTest();
  const [kept, lost, hibernated] = [await world.create(), await world.create(), await world.create()];
  await world.ask("POST", `/api/sandboxes/${hibernated}/hibernate`);
  world.worker.host.machines.delete(lost);
  await using next = await startAfterCrash(world);
  assert.deepEqual(await typesOf(next, kept), ["created", "ready"]);
  assert.deepEqual(await typesOf(next, lost), ["created", "ready", "stopped"]);
  assert.deepEqual(await typesOf(next, hibernated), ["created", "ready", "hibernated"]);
});

test("pages follow each other without gap or repetition, with a selection of types", async () => {
  await using world = await startForTest();
  for (let count = 0; count < 3; count += 1) await world.create();
  const seen: string[] = [];
  let after = "0";
  for (;;) {
    const [, found] = (await world.ask("GET", `/api/events?limit=2&after=${after}`)) as [number, Page];
    seen.push(...found.data.map(({ id }) => id));
    after = found.nextCursor;
    if (!found.hasMore) break;
  }
  assert.deepEqual(
    seen,
    (await page(world)).data.map(({ id }) => id),
  );
  assert.equal(new Set(seen).size, 6);
  const ready = (await page(world, "&types=sandbox.ready,sandbox.checkpoint.*")).data;
  assert.deepEqual([...new Set(ready.map(({ type }) => type))], ["sandbox.ready"]);
  const [status, refusal] = await world.ask("GET", "/api/events?types=sandbox.exploded");
  assert.equal(status, 400);
  assert.match(refusal.error, /unknown event type "sandbox.exploded"/);
});

test("a stream begins with the next event, and one that reconnects misses nothing", async () => {
  await using world = await startForTest();
  await world.create();
  using first = await follow(world);
  const id = await world.create();
  await eventually("the events of the create", () => first.events.length === 2);
  assert.deepEqual(
    first.events.map(({ event }) => [event.type, event.sandboxId]),
    [
      ["sandbox.created", id],
      ["sandbox.ready", id],
    ],
  );
  first.response.destroy();
  await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
  using second = await follow(world, "", { "last-event-id": first.events[0]?.id ?? "" });
  await eventually("the events since then", () => second.events.length === 2);
  assert.deepEqual(
    second.events.map(({ event }) => event.type),
    ["sandbox.ready", "sandbox.hibernated"],
  );
});

test("a stream of one sandbox and some types carries no other event", async () => {
  await using world = await startForTest();
  const id = await world.create();
  using stream = await follow(world, `?sandboxId=${id}&types=sandbox.hibernated,sandbox.resumed`);
  await world.create();
  await world.ask("POST", `/api/sandboxes/${id}/hibernate`);
  await world.ask("POST", `/api/sandboxes/${id}/wake`, {});
  await eventually("both events", () => stream.events.length === 2);
  assert.deepEqual(
    stream.events.map(({ event }) => event.type),
    ["sandbox.hibernated", "sandbox.resumed"],
  );
});

test("a client that does not read delays no other, costs no memory and gets every event later", async () => {
  await using world = await startForTest({ limits: { maxSandboxes: 10_000 } });
  using slow = await follow(world, "?after=0");
  slow.response.pause();
  const id = await world.create();
  using quick = await follow(world, "?after=0");
  const rounds = 300;
  for (let round = 0; round < rounds; round += 1) {
    const tag = "x".repeat(20);
    await world.ask("POST", `/api/sandboxes/${id}/preview`, { port: 3000, domain: `${tag}${round}.example.com` });
    await world.call("DELETE", `/api/sandboxes/${id}/preview/3000`);
  }
  const all = 2 + 2 * rounds;
  await eventually("the quick client has all events", () => quick.events.length === all);
  slow.response.resume();
  await eventually("the slow client has all events", () => slow.events.length === all);
  assert.deepEqual(
    slow.events.map(({ id: cursor }) => cursor),
    quick.events.map(({ id: cursor }) => cursor),
  );
});

test("streams end when the server shuts down", async () => {
  let stream: Stream;
  {
    await using world = await startForTest();
    stream = await follow(world);
  }
  using _ = stream;
  await within(
    "the end of the stream",
    eventually("closed", () => stream.response.closed || stream.response.readableEnded),
  );
});
