import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import type { PortConnection } from "@opensandbox/sdk";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { findFreePort } from "../../testing/free-port.ts";
import { type PartialClient, runForTest, testInterrupts } from "../../testing/test-host.ts";

test("forward listens on a free port and passes connections to the sandbox until it is interrupted", async () => {
  const asked: unknown[] = [];
  const client: PartialClient = {
    sandboxes: { get: async () => ({}) as never },
    ports: {
      async connect(id, port): Promise<PortConnection> {
        asked.push([id, port]);
        const { promise, resolve } = Promise.withResolvers<Uint8Array>();
        return {
          incoming: (async function* () {
            yield await promise;
          })(),
          write: async (bytes) => resolve(Buffer.from(`got ${Buffer.from(bytes).toString()}`)),
          end: async () => undefined,
          close: () => undefined,
        };
      },
    },
  };
  const aborted = new AbortController();
  const interrupts = { ...testInterrupts(), signal: aborted.signal };
  const local = await findFreePort();
  const running = runForTest(["forward", "sb-1a2b3c4d", `${local}:5432`, "--json"], { client, interrupts });
  const text = await eventually("a connection", async () => await exchange(local, "ping").catch(() => undefined));
  assert.equal(text, "got ping");
  assert.deepEqual(asked, [["sb-1a2b3c4d", 5432]]);
  aborted.abort();
  const { stdout } = await running;
  assert.deepEqual(JSON.parse(stdout), {
    ...{ sandbox: "sb-1a2b3c4d", ports: [{ address: "127.0.0.1", local, port: 5432 }] },
  });
  const wrong = await runForTest(["forward", "sb-1a2b3c4d", "http"], { client });
  assert.match(wrong.stderr, /"http" is not a port/);
});

async function exchange(port: number, message: string): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  socket.write(message);
  let text = "";
  for await (const chunk of socket.setEncoding("utf8")) text += String(chunk);
  return text;
}
