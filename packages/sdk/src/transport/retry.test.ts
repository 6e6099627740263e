import assert from "node:assert/strict";
import { suite, test, type TestContext } from "node:test";
import { retrying } from "./retry.ts";

const refused = new TypeError("fetch failed");
const isUnreachable = (error: unknown): boolean => error === refused;

/** A server that answers as told, one answer an attempt, and how long was waited before each attempt. */
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
      const answer = answers[attempts++] ?? assert.fail("one attempt too many");
      if (answer instanceof Error) throw answer;
      return await Promise.resolve(answer instanceof Response ? answer : new Response(null, { status: answer }));
    },
  };
}

suite("a call that can be made twice", () => {
  for (const status of [429, 502, 503, 504]) {
    test(`is made again after ${status}`, async (t) => {
      const { call, waited } = server(t, [status, 200]);
      assert.equal((await retrying(call, isUnreachable, undefined)).status, 200);
      assert.equal(waited.length, 1);
    });
  }

  for (const status of [200, 201, 204, 400, 404, 409, 500]) {
    test(`is not made again after ${status}`, async (t) => {
      const { call, waited } = server(t, [status]);
      assert.equal((await retrying(call, isUnreachable, undefined)).status, status);
      assert.deepEqual(waited, []);
    });
  }

  test("is made again when the server was not reached, four times in all, each time after longer", async (t) => {
    const given = server(t, [refused, refused, refused, refused]);
    await assert.rejects(retrying(given.call, isUnreachable, undefined), refused);
    assert.equal(given.attempts, 4);
    for (const [index, delayMs] of given.waited.entries()) {
      const least = 200 * 2 ** index;
      assert.ok(delayMs >= least && delayMs <= 2 * least, `${delayMs} ms before attempt ${index + 2}`);
    }
  });

  test("has the last answer as its result, with its body", async (t) => {
    const last = new Response("still full", { status: 429 });
    const { call } = server(t, [503, refused, 503, last]);
    assert.equal(await (await retrying(call, isUnreachable, undefined)).text(), "still full");
  });

  test("lets go of the bodies that it does not return", async (t) => {
    const first = new Response("later", { status: 503 });
    const { call } = server(t, [first, 200]);
    await retrying(call, isUnreachable, undefined);
    assert.equal(first.bodyUsed, true);
  });

  test("waits for as long as the server asks, and not for ever", async (t) => {
    const asking = (seconds: string): Response =>
      new Response(null, { status: 503, headers: { "retry-after": seconds } });
    const { call, waited } = server(t, [asking("3"), asking("86400"), asking("Fri, 01 Jan 2100 00:00:00 GMT"), 200]);
    await retrying(call, isUnreachable, undefined);
    assert.deepEqual(waited.slice(0, 2), [3000, 10_000]);
    // A date is not understood: as if nothing was asked.
    assert.ok(waited[2] !== undefined && waited[2] < 2000);
  });

  test("is not made again after an error of the caller's", async (t) => {
    const { call, waited } = server(t, [new RangeError("a bad argument")]);
    await assert.rejects(retrying(call, isUnreachable, undefined), RangeError);
    assert.deepEqual(waited, []);
  });

  test("is over when its signal is aborted: before the next attempt, and while it waits", async (t) => {
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
