import assert from "node:assert/strict";
import { suite, test, type TestContext } from "node:test";
import { retrying } from "./retry.ts";

const refused = new TypeError("fetch failed");
const isUnreachable = (error: unknown): boolean => error === refused;

/** A server that gives one of the answers at each attempt, and the delay before each attempt. */
function server(t: TestContext, answers: readonly (number | Response | Error)[]) {
  const waited: number[] = [];
  let attempts = 0;
  t.mock.method(globalThis, "setTimeout", ((action: () => void, delayMs: number) => {
    waited.push(delayMs);
    setImmediate(action);
  }) as typeof setTimeout);
  return {
    waited,
    get attempts() {
      return attempts;
    },
    call: async (): Promise<Response> => {
      const answer = answers[attempts++] ?? assert.fail("more attempts than answers");
      if (answer instanceof Error) throw answer;
      return await Promise.resolve(answer instanceof Response ? answer : new Response(null, { status: answer }));
    },
  };
}

suite("a call that may be retried", () => {
  for (const status of [429, 502, 503, 504]) {
    test(`is retried after ${status}`, async (t) => {
      const { call, waited } = server(t, [status, 200]);
      assert.equal((await retrying(call, isUnreachable, undefined)).status, 200);
      assert.equal(waited.length, 1);
    });
  }

  for (const status of [200, 201, 204, 400, 404, 409, 500]) {
    test(`is not retried after ${status}`, async (t) => {
      const { call, waited } = server(t, [status]);
      assert.equal((await retrying(call, isUnreachable, undefined)).status, status);
      assert.deepEqual(waited, []);
    });
  }

  test("is tried four times when the server cannot be reached, with growing delays", async (t) => {
    const given = server(t, [refused, refused, refused, refused]);
    await assert.rejects(retrying(given.call, isUnreachable, undefined), refused);
    assert.equal(given.attempts, 4);
    for (const [index, delayMs] of given.waited.entries()) {
      const minMs = 200 * 2 ** index;
      assert.ok(delayMs >= minMs && delayMs <= 2 * minMs, `${delayMs} ms before attempt ${index + 2}`);
    }
  });

  test("returns the last answer, with its body", async (t) => {
    const last = new Response("still full", { status: 429 });
    const { call } = server(t, [503, refused, 503, last]);
    assert.equal(await (await retrying(call, isUnreachable, undefined)).text(), "still full");
  });

  test("cancels the bodies of answers that it does not return", async (t) => {
    const first = new Response("later", { status: 503 });
    const { call } = server(t, [first, 200]);
    await retrying(call, isUnreachable, undefined);
    assert.equal(first.bodyUsed, true);
  });

  test("waits as long as the server asks, up to ten seconds", async (t) => {
    const asking = (seconds: string): Response =>
      new Response(null, { status: 503, headers: { "retry-after": seconds } });
    const { call, waited } = server(t, [asking("3"), asking("86400"), asking("Fri, 01 Jan 2100 00:00:00 GMT"), 200]);
    await retrying(call, isUnreachable, undefined);
    assert.deepEqual(waited.slice(0, 2), [3000, 10_000]);
    // A date is ignored.
    assert.ok(waited[2] !== undefined && waited[2] < 2000);
  });

  test("is not retried after a programming error", async (t) => {
    const { call, waited } = server(t, [new RangeError("a bad argument")]);
    await assert.rejects(retrying(call, isUnreachable, undefined), RangeError);
    assert.deepEqual(waited, []);
  });

  test("ends when its signal is aborted, before the next attempt and during a delay", async (t) => {
    const aborted = new AbortController();
    const given = server(t, [refused]);
    const failing = async (): Promise<Response> => {
      aborted.abort();
      return await given.call();
    };
    await assert.rejects(retrying(failing, isUnreachable, aborted.signal), refused);
    assert.equal(given.attempts, 1);

    t.mock.restoreAll();
    const patience = new AbortController();
    let attempts = 0;
    const full = async (): Promise<Response> => {
      attempts += 1;
      setImmediate(() => patience.abort());
      return await Promise.resolve(new Response(null, { status: 503, headers: { "retry-after": "10" } }));
    };
    await assert.rejects(retrying(full, isUnreachable, patience.signal));
    assert.equal(attempts, 1);
  });
});
