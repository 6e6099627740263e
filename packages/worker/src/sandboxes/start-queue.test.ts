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
    ask: (name: string, signal = never, organization = "org"): Promise<Disposable> =>
      queue.enter(organization, signal).then((turn) => {
        inside.push(name);
        return turn;
      }),
  };
}

const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

test("a queue grants as many turns at once as it is wide, and the others in the order of the requests", async () => {
  const queue = new StartQueue(2);
  const { inside, ask } = asking(queue);
  const turns = ["a", "b", "c", "d"].map((name) => ask(name));
  await settled();
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

test("organizations take turns, and a burst of one delays another by one start", async () => {
  const { inside, ask } = asking(new StartQueue(1));
  const turns = ["a1", "a2", "a3", "a4"].map((name) => ask(name, never, "a"));
  turns.push(ask("b1", never, "b"), ask("b2", never, "b"), ask("c1", never, "c"));
  const granted: string[] = [];
  for (let count = 1; count <= turns.length; count += 1) {
    await settled();
    assert.equal(inside.length, count);
    granted.push(inside.at(-1)!);
    // The request that has just been granted leaves.
    const names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"];
    (await turns[names.indexOf(granted.at(-1)!)]!)[Symbol.dispose]();
  }
  assert.deepEqual(granted, ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]);
});

test("an organization that comes late owes nothing and catches up on nothing", async () => {
  const { inside, ask } = asking(new StartQueue(1));
  const next = async (turn: Promise<Disposable>): Promise<void> => {
    (await turn)[Symbol.dispose]();
    await settled();
  };
  const early = ["a1", "a2", "a3", "a4", "a5"].map((name) => ask(name, never, "a"));
  await next(early[0]!);
  await next(early[1]!);
  assert.deepEqual(inside, ["a1", "a2", "a3"]);
  const late = ["b1", "b2"].map((name) => ask(name, never, "b"));
  for (const turn of [early[2]!, late[0]!, early[3]!, late[1]!, early[4]!]) await next(turn);
  assert.deepEqual(inside, ["a1", "a2", "a3", "b1", "a4", "b2", "a5"]);
});

test("a request learns how many are ahead of it, and a full queue refuses further ones", async () => {
  const queue = new StartQueue(1, { maxWaiting: 2 });
  const positions: number[][] = [[], []];
  const first = await queue.enter("a", never);
  const second = queue.enter("a", never, (ahead) => positions[0]!.push(ahead));
  const left = new AbortController();
  const third = queue.enter("b", left.signal, (ahead) => positions[1]!.push(ahead));
  await assert.rejects(queue.enter("c", never), { code: "unavailable", message: /^2 sandboxes wait to start/ });
  // The other organization's request comes first.
  assert.deepEqual(positions, [[0, 1], [0]]);
  left.abort(new SandboxError("canceled", "no longer needed"));
  await assert.rejects(third);
  assert.deepEqual(positions, [[0, 1, 0], [0]]);
  first[Symbol.dispose]();
  (await second)[Symbol.dispose]();
  using _ = await queue.enter("c", never);
});
