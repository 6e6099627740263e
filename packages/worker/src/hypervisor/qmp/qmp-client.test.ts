import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { duplexPair, type Duplex } from "node:stream";
import { suite, test } from "node:test";
import * as fc from "fast-check";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { messageIn, QmpClient } from "./qmp-client.ts";

/** A client, and the monitor's end of its connection. An exception in this process fails the test that caused it. */
function pair(): { readonly qmp: QmpClient; readonly monitor: Duplex } {
  const [ours, theirs] = duplexPair();
  // A socket closes at the end of its input as well.
  ours.once("end", () => ours.destroy());
  theirs.on("error", () => theirs.destroy());
  theirs.resume();
  return { qmp: new QmpClient(ours as unknown as Socket), monitor: theirs };
}

/** Lines that look like those of a monitor, with values of any type in every place. */
const almostMessages = fc
  .record(
    {
      QMP: fc.jsonValue(),
      event: fc.oneof(fc.constantFrom("STOP", "SHUTDOWN", "JOB_STATUS_CHANGE"), fc.jsonValue()),
      data: fc.oneof(fc.dictionary(fc.constantFrom("reason", "device", "status"), fc.jsonValue()), fc.jsonValue()),
      id: fc.oneof(fc.constantFrom(1, 2), fc.jsonValue()),
      return: fc.jsonValue(),
      error: fc.oneof(fc.record({ desc: fc.jsonValue() }), fc.jsonValue()),
    },
    { requiredKeys: [] },
  )
  .map((message) => JSON.stringify(message));

suite("a monitor", () => {
  test("whose lines are anything ends its own connection at most, whatever listeners do with its events", async () => {
    const lines = fc.oneof(almostMessages, fc.string(), fc.json());
    await fc.assert(
      fc.asyncProperty(fc.array(lines, { maxLength: 12 }), fc.integer({ min: 1, max: 40 }), async (sent, size) => {
        const { qmp, monitor } = pair();
        qmp.listen(({ event, data }) => {
          assert.equal(typeof event, "string");
          // This throws for some objects, as a real listener may.
          String(data?.["reason"]);
        });
        const commands = Promise.allSettled([qmp.execute("stop"), qmp.execute("cont")]);
        const bytes = Buffer.from(`${sent.join("\n")}\n`);
        for (let at = 0; at < bytes.length; at += size) monitor.write(bytes.subarray(at, at + size));
        monitor.end();
        await qmp.closed;
        for (const command of await commands) {
          if (command.status === "rejected") assert.ok(isSandboxError(command.reason), String(command.reason));
        }
      }),
      { numRuns: 300 },
    );
  });

  test("whose event makes a listener fail loses its connection, and nothing else fails", async () => {
    const { qmp, monitor } = pair();
    qmp.listen(({ data }) => void String(data?.["reason"]));
    const command = qmp.execute("query-status");
    monitor.write('{"event":"SHUTDOWN","data":{"reason":{"toString":1,"valueOf":1}}}\n');
    await assert.rejects(command, (error) => isSandboxError(error, "unavailable"));
    await qmp.closed;
  });

  test("that sends a line of more than 4 MiB loses its connection when the limit is reached", async () => {
    const { qmp, monitor } = pair();
    const piece = Buffer.alloc(2 ** 16, "a");
    const closed = new AbortController();
    void qmp.closed.then(() => closed.abort());
    let sent = 0;
    for (; !closed.signal.aborted && sent < 16 * 2 ** 20; sent += piece.length) {
      monitor.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.ok(sent > 4 * 2 ** 20 && sent <= 4 * 2 ** 20 + 4 * piece.length, `${sent}`);
  });
});

test("a line is a message only when its parts have the types that QEMU documents", () => {
  fc.assert(
    fc.property(fc.oneof(almostMessages, fc.json(), fc.string()), (line) => {
      const message = messageIn(line);
      if (message === undefined) return;
      assert.ok(["string", "undefined"].includes(typeof message.event));
      assert.ok(["number", "undefined"].includes(typeof message.id));
      assert.ok(message.data === undefined || (typeof message.data === "object" && message.data !== null));
    }),
    { numRuns: 2000 },
  );
  for (const line of ["", "1", "null", "[]", '{"event":1}', '{"event":"A","data":null}', '{"id":"1"}']) {
    assert.equal(messageIn(line), undefined, line);
  }
});
