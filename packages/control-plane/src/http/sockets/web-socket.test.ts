import assert from "node:assert/strict";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import fastify from "fastify";
import { WebSocket } from "ws";
import type { PreviewGateway } from "#http/previews/preview-gateway.ts";
import { acceptWebSocket, routeUpgrades } from "./web-socket.ts";

test("messages sent before the close reach a client that reads minutes later", async (t) => {
  const app = fastify();
  const accepted = Promise.withResolvers<WebSocket>();
  app.get("/", async (request, reply) => {
    accepted.resolve(await acceptWebSocket(request, reply, 1_000_000));
  });
  const noPreviews: Pick<PreviewGateway, "upgrade"> = { upgrade: (_request, _socket, _head, otherwise) => otherwise() };
  routeUpgrades(app, noPreviews as PreviewGateway, (_level, message) => assert.fail(message));
  await app.listen({ host: "127.0.0.1", port: 0 });
  const client = new WebSocket(`ws://127.0.0.1:${(app.server.address() as AddressInfo).port}/`);
  try {
    let received = 0;
    client.on("message", (data: Buffer) => (received += data.length));
    await eventOf(client, "open");
    client.pause();
    const server = await accepted.promise;
    server.resume();
    t.mock.timers.enable({ apis: ["setTimeout"] });
    // Exceeds the buffers between server and client.
    let sent = 0;
    for (; server.bufferedAmount < 500_000; sent += 65_536) {
      server.send(Buffer.alloc(65_536));
      await new Promise(setImmediate);
    }
    server.close(1000);
    t.mock.timers.tick(600_000);
    client.resume();
    const [code] = (await eventOf(client, "close")) as [number];
    assert.deepEqual([code, received], [1000, sent]);
  } finally {
    client.terminate();
    await app.close();
  }
});
