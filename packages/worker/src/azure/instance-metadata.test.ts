import assert from "node:assert/strict";
import { test } from "node:test";
import { InstanceMetadata } from "./instance-metadata.ts";
import { FakeMetadata } from "./testing/fake-metadata.ts";

test("a machine gets a token of its identity, its name and its scheduled events", async (t) => {
  await using fake = await FakeMetadata.start();
  const metadata = new InstanceMetadata(fake.endpoint);
  assert.deepEqual(await metadata.token("https://vault.azure.net", t.signal), {
    value: "token for https://vault.azure.net",
    expiresAt: 4_000_000_000_000,
  });
  assert.equal(await metadata.machineName(t.signal), "vm-1");
  const common = { EventType: "Reboot", Resources: ["vm-1"] };
  fake.events = [
    { ...common, EventId: "A", EventStatus: "Scheduled", NotBefore: "Mon, 19 Sep 2016 18:29:47 GMT" },
    { ...common, EventId: "B", EventStatus: "Started", NotBefore: "" },
  ];
  assert.deepEqual(await metadata.scheduledEvents(t.signal), [
    { id: "A", type: "Reboot", machines: ["vm-1"], status: "Scheduled", notBefore: 1_474_309_787_000 },
    { id: "B", type: "Reboot", machines: ["vm-1"], status: "Started" },
  ]);
  await metadata.approve("A", t.signal);
  assert.deepEqual(fake.approved, ["A"]);
});

test("a service that is busy or not ready is asked again, and one that refuses is not", async (t) => {
  await using fake = await FakeMetadata.start();
  const metadata = new InstanceMetadata(fake.endpoint, { pauseMs: 1 });
  fake.faults.push(429, 503, 404);
  assert.equal(await metadata.machineName(t.signal), "vm-1");
  fake.faults.push(400);
  await assert.rejects(metadata.machineName(t.signal), /instance metadata service at http:.*: it answered with 400/);
  fake.faults.push(500, 500, 500, 500, 500);
  await assert.rejects(metadata.machineName(t.signal), /it answered with 500/);
  assert.deepEqual(fake.faults, []);
});
