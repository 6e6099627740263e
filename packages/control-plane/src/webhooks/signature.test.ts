import assert from "node:assert/strict";
import { test } from "node:test";
import { verifyWebhook } from "@opencomputer/sdk";
import { newSecret, signedHeaders } from "./signature.ts";

const message = { id: "msg_1", body: JSON.stringify({ type: "sandbox.ready", eventId: "evt_1", event: {} }) };
const now = Date.UTC(2030, 0, 1);
const options = { nowSeconds: now / 1000 };

for (const secret of [newSecret(), "testsecret", "whsec_not base64!", "c2VjcmV0c2VjcmV0"]) {
  test(`the published client accepts a signature by ${secret.slice(0, 12)}`, async () => {
    const headers = signedHeaders(message, { current: secret }, now);
    const delivery = await verifyWebhook(message.body, headers, secret, options);
    assert.deepEqual([delivery.deliveryId, delivery.dedupeId, delivery.eventId], ["msg_1", "msg_1", "evt_1"]);
    await assert.rejects(verifyWebhook(`${message.body} `, headers, secret, options), /no matching webhook signature/);
  });
}

test("the headers of Standard Webhooks and of Svix hold the same signature", () => {
  const headers = signedHeaders(message, { current: newSecret() }, now);
  for (const name of ["id", "timestamp", "signature"])
    assert.equal(headers[`webhook-${name}`], headers[`svix-${name}`]);
});

test("during a rotation a receiver with either secret accepts", async () => {
  const secrets = { current: newSecret(), previous: newSecret() };
  const headers = signedHeaders(message, secrets, now);
  for (const secret of [secrets.current, secrets.previous]) await verifyWebhook(message.body, headers, secret, options);
  await assert.rejects(verifyWebhook(message.body, headers, newSecret(), options));
});
