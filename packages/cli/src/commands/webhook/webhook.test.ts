import assert from "node:assert/strict";
import { test } from "node:test";
import type { SandboxEvent, Webhook } from "@opensandbox/sdk";
import { type PartialClient, runForTest } from "../../testing/test-host.ts";

const id = "wh_0123456789abcdef";
const at = new Date().toISOString();
const made: Webhook = { id, url: "https://a.example/", eventTypes: [], enabled: true, createdAt: at, updatedAt: at };

test("webhook create sends the given options and prints id and secret", async () => {
  const asked: unknown[] = [];
  const create = async (request: object) => {
    asked.push(request);
    return { ...made, secret: "whsec_x" };
  };
  const client: PartialClient = { webhooks: { create } };
  const all = await runForTest(["webhook", "create", "https://a.example/"], { client });
  assert.equal(all.stdout, `${id}\nwhsec_x\n`);
  const options = ["--types", "sandbox.stopped, sandbox.checkpoint.*", "--sandbox", "sb-1a2b3c4d", "--name", "ends"];
  await runForTest(["webhook", "create", "https://a.example/", ...options], { client });
  const eventTypes = ["sandbox.stopped", "sandbox.checkpoint.*"];
  assert.deepEqual(asked, [
    { url: "https://a.example/" },
    { url: "https://a.example/", name: "ends", eventTypes, sandboxId: "sb-1a2b3c4d" },
  ]);
});

test("webhook update sends only the changes and prints a new secret", async () => {
  let asked: unknown;
  const update = async (_id: string, changes: object) => {
    asked = changes;
    return { ...made, enabled: false, ...("rotateSecret" in changes ? { secret: "whsec_new" } : {}) };
  };
  const client: PartialClient = { webhooks: { update } };
  const paused = await runForTest(["webhook", "update", id, "--disable", "--types", ""], { client });
  assert.deepEqual(asked, { eventTypes: [], enabled: false });
  assert.match(paused.stdout, /^webhook: wh_0123456789abcdef\nurl: .*\ntypes: all\nsandbox: all\nenabled: no\n$/);
  const rotated = await runForTest(["webhook", "update", id, "--rotate-secret"], { client });
  assert.match(rotated.stdout, /secret: whsec_new\n$/);
  const nothing = await runForTest(["webhook", "update", id], { client });
  assert.match(nothing.stderr, /nothing to change/);
});

test("webhook deliveries says why an event did not arrive", async () => {
  const common = { eventId: "evt_1", eventType: "sandbox.ready", createdAt: at } as const;
  const deliveries = async () => [
    { ...common, id: "msg_1", status: "pending", attempts: 3, error: "the receiver answered with status 500" } as const,
    { ...common, id: "msg_2", status: "success", attempts: 1, responseStatus: 204 } as const,
  ];
  const { stdout } = await runForTest(["webhook", "deliveries", id], { client: { webhooks: { deliveries } } });
  assert.match(
    stdout,
    /msg_1 +sandbox\.ready +pending +3 .*the receiver answered with status 500\n.*msg_2 .*status 204\n$/,
  );
});

test("events shows the newest events, and with -f follows new ones", async () => {
  const event = (type: SandboxEvent["type"], data: object): SandboxEvent => ({
    ...{ id: "evt_1", type, sandboxId: "sb-1a2b3c4d", organizationId: "org-default", at: "2030-01-01T00:00:00.000Z" },
    data: data as Record<string, unknown>,
  });
  const asked: unknown[] = [];
  const client: PartialClient = {
    events: {
      async list(selection) {
        asked.push(selection);
        return { events: [event("sandbox.ready", {})], cursor: "7", hasMore: false };
      },
      async *follow(selection) {
        asked.push(selection);
        yield event("sandbox.stopped", { reason: "crash" });
      },
    },
  };
  const newest = await runForTest(["events"], { client });
  assert.equal(newest.stdout, "2030-01-01T00:00:00.000Z  sb-1a2b3c4d  ready\n");
  const followed = await runForTest(["events", "-f", "--types", "sandbox.stopped"], { client });
  assert.equal(followed.stdout, "2030-01-01T00:00:00.000Z  sb-1a2b3c4d  stopped  reason=crash\n");
  const types = ["sandbox.stopped"];
  assert.deepEqual(asked, [{ limit: 20 }, { types, limit: 1 }, { types, after: "7" }]);
});
