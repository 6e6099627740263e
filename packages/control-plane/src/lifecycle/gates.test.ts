import assert from "node:assert/strict";
import { test } from "node:test";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { Gates } from "./gates.ts";

const never = new AbortController().signal;

test("operations on one sandbox run one at a time, in the order of their requests", async () => {
  const gates = new Gates();
  const id = newSandboxId();
  const events: string[] = [];
  const first = Promise.withResolvers<void>();
  const operations = [
    gates.run(id, async () => {
      events.push("first begins");
      await first.promise;
      events.push("first ends");
    }),
    gates.run(id, () => Promise.resolve(events.push("second"))),
    gates.open(id, never).then(() => events.push("a call")),
  ];
  await gates.run(newSandboxId(), () => Promise.resolve(events.push("another sandbox")));
  first.resolve();
  await Promise.all(operations);
  assert.deepEqual(events, ["first begins", "another sandbox", "first ends", "second", "a call"]);
});

test("an operation that fails lets the next one through", async () => {
  const gates = new Gates();
  const id = newSandboxId();
  const failed = gates.run(id, () => Promise.reject(new Error("no")));
  const after = gates.run(id, () => Promise.resolve("yes"));
  await assert.rejects(failed, /no/);
  assert.equal(await after, "yes");
});

test("a waiting call can be aborted", async () => {
  const gates = new Gates();
  const id = newSandboxId();
  const operation = Promise.withResolvers<void>();
  const running = gates.run(id, () => operation.promise);
  await assert.rejects(gates.open(id, AbortSignal.abort(new Error("gone"))), /gone/);
  operation.resolve();
  await running;
  await gates.open(id, never);
});
