import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { suite, test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { ListedObject, ObjectStore } from "../object-store.ts";
import type { StoreTuning } from "../retry.ts";
import type { Fault, FaultyProxy } from "./faulty-proxy.ts";

export interface ObjectStoreStand extends AsyncDisposable {
  readonly store: ObjectStore;
  /** Between the store and its server. Absent: it has none. */
  readonly proxy?: FaultyProxy;
}

/** Short enough for tests, and long enough for a busy host to answer within an attempt. */
export const testTuning: StoreTuning = { attempts: 4, attemptMs: 3000, firstPauseMs: 5, maxPauseMs: 20 };

const never = new AbortController().signal;

/**
 * Everything that uploads and fetches of snapshots rely on. `open` is called once. `hasServer`: the stand has a proxy,
 * and faults of the connection are tested too. `skip`: why the engine cannot be tested here.
 */
export function objectStoreContract(
  name: string,
  { hasServer, skip = false }: { readonly hasServer: boolean; readonly skip?: string | false },
  open: () => Promise<ObjectStoreStand>,
): void {
  suite(name, { skip }, () => {
    let stand: ObjectStoreStand;
    let store: ObjectStore;

    test("an object is read as it was written, whole and in part", async () => {
      stand = await open();
      ({ store } = stand);
      const content = randomBytes(300_001);
      await store.put("chunks/ab/first", content, never);
      assert.deepEqual(await store.get("chunks/ab/first", { signal: never }), content);
      const range = { offset: 100_000, length: 50_000 };
      assert.deepEqual(
        await store.get("chunks/ab/first", { range, signal: never }),
        content.subarray(100_000, 150_000),
      );
      const info = await store.head("chunks/ab/first", never);
      assert.equal(info?.bytes, content.length);
      assert.ok(Math.abs(Date.now() - info.modifiedAt.getTime()) < 60_000, String(info.modifiedAt));
    });

    test("an object without bytes exists", async () => {
      await store.put("empty", new Uint8Array(), never);
      assert.equal((await store.head("empty", never))?.bytes, 0);
      assert.deepEqual(await store.get("empty", { signal: never }), Buffer.alloc(0));
    });

    test("a missing object is undefined, and deleting it succeeds", async () => {
      assert.equal(await store.get("chunks/none", { signal: never }), undefined);
      assert.equal(await store.head("chunks/none", never), undefined);
      await store.delete("chunks/none", never);
    });

    test("a put replaces an object, and a delete removes it", async () => {
      await store.put("one", Buffer.from("first"), never);
      await store.put("one", Buffer.from("second"), never);
      assert.equal(String(await store.get("one", { signal: never })), "second");
      await store.delete("one", never);
      assert.equal(await store.head("one", never), undefined);
    });

    test("a list has every object below a prefix, and no other", async () => {
      const keys = Array.from({ length: 25 }, (_, at) => `listed/${at % 2}/object-${at}`);
      await Promise.all(keys.map((key) => store.put(key, Buffer.from(key), never)));
      await store.put("listed-not/object", Buffer.from("no"), never);
      const listed = await all(store.list("listed/", never));
      assert.deepEqual(listed.map(({ key }) => key).toSorted(), keys.toSorted());
      assert.ok(listed.every(({ key, bytes }) => bytes === key.length));
      assert.equal((await all(store.list("listed/1/object-1", never))).length, 6);
      assert.deepEqual(await all(store.list("nothing/", never)), []);
    });

    test("a key that a store would change is refused", async () => {
      for (const key of ["", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a b", "ä"]) {
        await assert.rejects(store.put(key, Buffer.from("x"), never), /cannot be the key of an object/, key);
      }
    });

    test("an aborted signal ends a call with its reason", async () => {
      const reason = new Error("enough");
      const signal = AbortSignal.abort(reason);
      await assert.rejects(store.put("aborted", Buffer.from("x"), signal), reason);
      await assert.rejects(store.get("aborted", { signal }), reason);
      assert.equal(await store.head("aborted", never), undefined);
    });

    if (hasServer)
      faultTests(
        () => stand,
        () => store,
      );

    test("the store closes", async () => {
      store[Symbol.dispose]();
      await stand[Symbol.asyncDispose]();
    });
  });
}

function faultTests(stand: () => ObjectStoreStand, store: () => ObjectStore): void {
  const faults: readonly Fault[] = [
    { kind: "status", status: 500 },
    { kind: "status", status: 503 },
    { kind: "status", status: 429 },
    { kind: "reset" },
  ];

  test("calls succeed in spite of 5xx, 429 and broken connections", async () => {
    const proxy = stand().proxy ?? assert.fail("no proxy");
    const content = randomBytes(200_000);
    for (const fault of faults) {
      proxy.inject(fault, fault);
      await store().put("faulty", content, never);
      proxy.inject(fault);
      assert.deepEqual(await store().get("faulty", { signal: never }), content);
      proxy.inject(fault);
      assert.equal((await store().head("faulty", never))?.bytes, content.length);
      proxy.inject(fault);
      assert.equal((await all(store().list("faulty", never))).length, 1);
    }
    proxy.inject({ kind: "status", status: 503 });
    await store().delete("faulty", never);
    assert.equal(await store().head("faulty", never), undefined);
  });

  test("a transfer that is cut off is repeated, and no part of it is taken for the whole", async () => {
    const proxy = stand().proxy ?? assert.fail("no proxy");
    const content = randomBytes(4 * 2 ** 20);
    proxy.inject({ kind: "cut request" });
    await store().put("cut", content, never);
    proxy.inject({ kind: "cut answer" }, { kind: "cut answer" });
    assert.deepEqual(await store().get("cut", { signal: never }), content);
  });

  test("a server that stays silent is given up at the attempt's deadline, and the next attempt succeeds", async () => {
    const proxy = stand().proxy ?? assert.fail("no proxy");
    await store().put("slow", Buffer.from("content"), never);
    proxy.inject({ kind: "silence" });
    assert.equal(String(await store().get("slow", { signal: never })), "content");
  });

  test("retries are bounded, and the error says what failed", async () => {
    const proxy = stand().proxy ?? assert.fail("no proxy");
    const before = proxy.requests;
    proxy.inject(...Array.from({ length: testTuning.attempts }, () => ({ kind: "status", status: 503 }) as const));
    await assert.rejects(
      store().get("anything", { signal: never }),
      (error) => isSandboxError(error, "unavailable") && /could not read anything in 4 attempts/.test(error.message),
    );
    assert.equal(proxy.requests - before, testTuning.attempts);
  });

  test("a refusal is not repeated", async () => {
    const proxy = stand().proxy ?? assert.fail("no proxy");
    const before = proxy.requests;
    proxy.inject({ kind: "status", status: 403 });
    await assert.rejects(store().put("refused", Buffer.from("x"), never), (error) =>
      isSandboxError(error, "permission_denied"),
    );
    assert.equal(proxy.requests - before, 1);
  });
}

async function all(objects: AsyncIterable<ListedObject>): Promise<ListedObject[]> {
  const found: ListedObject[] = [];
  for await (const object of objects) found.push(object);
  return found;
}
