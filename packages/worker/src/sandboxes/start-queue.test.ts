import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { StartQueue } from "./start-queue.ts";

const never = new AbortController().signal;

/** Requests turns, and notes the order in which they are granted. */
function asking(queue: StartQueue) {
  const inside: string[] = [];
  return {
    inside,
    ask: (name: string, signal = never): Promise<Disposable> =>
      queue.enter(signal).then((turn) => {
        inside.push(name);
        return turn;
      }),
  };
}

const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

test("a queue grants as many turns at once as it is wide, and the others in the order of the requests", async () => {
  const queue = new StartQueue(2);
  const { inside, ask } = asking(queue);
  assert.equal(queue.isFull, false);
  const turns = ["a", "b", "c", "d"].map((name) => ask(name));
  await settled();
  assert.equal(queue.isFull, true);
  assert.deepEqual(inside, ["a", "b"]);
  (await turns[1]!)[Symbol.dispose]();
  const late = ask("e");
  await settled();
  assert.deepEqual(inside, ["a", "b", "c"]);
  (await turns[0]!)[Symbol.dispose]();
  (await turns[2]!)[Symbol.dispose]();
  await late;
  assert.deepEqual(inside, ["a", "b", "c", "d", "e"]);
});

test("a turn that is left twice goes to one other request", async () => {
  const { inside, ask } = asking(new StartQueue(1));
  const first = await ask("a");
  void ask("b");
  void ask("c");
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  await settled();
  assert.deepEqual(inside, ["a", "b"]);
});

test("a request that is aborted leaves the queue with the reason and takes no other's place", async () => {
  const { inside, ask } = asking(new StartQueue(1));
  const first = await ask("a");
  const left = new AbortController();
  const second = ask("b", left.signal);
  const third = ask("c");
  left.abort(new SandboxError("canceled", "no longer needed"));
  await assert.rejects(second, { code: "canceled", message: "no longer needed" });
  first[Symbol.dispose]();
  await third;
  // The request has its turn already, so the abort changes nothing.
  left.abort();
  assert.deepEqual(inside, ["a", "c"]);
  await assert.rejects(ask("d", AbortSignal.abort(new SandboxError("canceled", "before"))), {
    message: "before",
  });
});

test("a start that takes long yields its turn", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const { inside, ask } = asking(new StartQueue(1));
    const slow = await ask("slow");
    const next = ask("next");
    mock.timers.tick(4999);
    await settled();
    assert.deepEqual(inside, ["slow"]);
    mock.timers.tick(1);
    await next;
    // Leaving a turn that was already yielded frees no second turn.
    slow[Symbol.dispose]();
    void ask("third");
    await settled();
    assert.deepEqual(inside, ["slow", "next"]);
  } finally {
    mock.timers.reset();
  }
});
