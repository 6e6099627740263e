import assert from "node:assert/strict";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { after, before, suite, test } from "node:test";
import * as fc from "fast-check";
import { almostHeads } from "@opensandbox/wire/testing/http-heads.ts";
import { openTcpListener } from "#host/kernel/sockets.ts";
import { type MetadataSource, serveMetadata } from "./metadata-service.ts";
import { inOwnHost } from "./testing/own-host.ts";
import { type OwnWorld, startOwnWorld } from "./testing/own-world.ts";
import type { PluggedGuest } from "./testing/plugged-guest.ts";

inOwnHost(import.meta.filename, () => {
  suite("the metadata service", () => {
    const stack = new AsyncDisposableStack();
    let world: OwnWorld;
    const guests: PluggedGuest[] = [];

    before(async () => {
      world = stack.use(await startOwnWorld({ ports: [] }));
      for (const id of ["sb-00000001", "sb-00000002", undefined]) {
        const { network, guest } = await world.plug();
        await network.setPolicy({ enabled: false });
        if (id !== undefined) network.identify(sourceOf(id));
        guests.push(guest);
      }
    });
    after(() => stack.disposeAsync());

    async function ask(guest: PluggedGuest | undefined, request: string, headers = "", body = ""): Promise<string> {
      assert.ok(guest !== undefined);
      const socket = guest.connect("169.254.169.254", 80);
      socket.setEncoding("utf8");
      socket.write(`${request} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n${headers}\r\n${body}`);
      let text = "";
      for await (const chunk of socket) text += String(chunk);
      return `${text.slice(9, 12)} ${text
        .split("\r\n\r\n")[1]
        ?.replace(/^\w+\r\n|\r\n0$/g, "")
        .trim()}`;
    }

    test("answers each guest about itself, identified by its network alone", async () => {
      assert.equal(await ask(guests[0], "GET /v1/status"), '200 {"sandboxId":"sb-00000001","uptime":7}');
      assert.equal(await ask(guests[1], "GET /v1/status"), '200 {"sandboxId":"sb-00000002","uptime":7}');
      assert.equal(
        await ask(guests[0], "GET /v1/status", "X-Forwarded-For: 10.213.0.6\r\n"),
        '200 {"sandboxId":"sb-00000001","uptime":7}',
      );
    });

    test("answers limits, metadata and the list of endpoints", async () => {
      assert.equal(await ask(guests[0], "GET /v1/limits"), '200 {"memLimit":1}');
      assert.equal(await ask(guests[0], "GET /v1/metadata"), '200 {"region":"here","template":"default"}');
      assert.match(await ask(guests[0], "GET /"), /^200 .*"GET \/v1\/status"/);
    });

    test("passes a request for another size on, and returns its answer", async () => {
      const body = '{"memoryMB":2048}';
      const length = `Content-Length: ${body.length}\r\n`;
      assert.equal(
        await ask(guests[1], "POST /v1/scale", length, body),
        '200 {"sandbox":"sb-00000002","asked":{"memoryMB":2048}}',
      );
    });

    test("refuses everything else with a message", async () => {
      assert.match(await ask(guests[0], "GET /latest/meta-data/"), /^404 .*see GET \//);
      assert.match(await ask(guests[0], "POST /v1/status"), /^404 /);
      assert.match(await ask(guests[0], "POST /v1/scale"), /^400 /);
      assert.match(await ask(guests[0], "GET /v1/status", "Origin: http://evil.example\r\n"), /^403 /);
      assert.match(await ask(guests[2], "GET /v1/status"), /^503 /);
    });

    test(
      "closes a connection without a complete request in time, and resets one too many",
      { timeout: 20_000 },
      async () => {
        using stack = new DisposableStack();
        const at = { address: "127.0.0.1", port: 80 };
        const defects: unknown[] = [];
        stack.use(
          serveMetadata({
            listener: openTcpListener("/proc/self/ns/net", at),
            limits: { maxConnections: 2, requestTimeoutMs: 300, until: "end" },
            answer: () => Promise.reject(new Error("nobody asks")),
            defect: (error) => defects.push(error),
          }),
        );
        const open = async (text: string): Promise<void> => {
          const socket = connect(at.port, at.address);
          socket.on("error", () => socket.destroy());
          stack.defer(() => void socket.destroy());
          socket.write(text);
          const { promise, resolve } = Promise.withResolvers<void>();
          socket.resume().once("close", () => resolve());
          await promise;
        };
        const head = "POST /v1/scale HTTP/1.1\r\nHost: a\r\n";
        const closed = [open(head), open(`${head}Content-Length: 100\r\n\r\n{`)];
        await open("");
        await Promise.all(closed);
        assert.deepEqual(defects, []);
      },
    );

    test("ends the connection at most, for requests of any bytes, and refuses a head above 16 KiB", async () => {
      using stack = new DisposableStack();
      const at = { address: "127.0.0.1", port: 80 };
      const defects: unknown[] = [];
      stack.use(
        serveMetadata({
          listener: openTcpListener("/proc/self/ns/net", at),
          answer: (_endpoint, body) => Promise.resolve({ status: 200, body: { body } }),
          defect: (error) => defects.push(error),
        }),
      );
      const exchange = async (bytes: string): Promise<string> => {
        const socket = connect(at.port, at.address);
        stack.defer(() => void socket.destroy());
        socket.write(Buffer.from(bytes, "latin1"));
        // The service may wait for the rest of a request.
        socket.setTimeout(200, () => socket.destroy());
        return await text(socket).catch(() => "");
      };
      const starts = ["GET /v1/status HTTP/1.1\r\nHost: a", "POST /v1/scale HTTP/1.1\r\nHost: a", "GET / HTTP/1.0"];
      await fc.assert(
        fc.asyncProperty(almostHeads(starts), async (bytes) => void (await exchange(bytes))),
        { numRuns: 60 },
      );
      assert.match(await exchange(`GET / HTTP/1.1\r\nHost: a\r\n${"X: y\r\n".repeat(4000)}\r\n`), /^HTTP\/1\.1 431 /);
      assert.match(
        await exchange("GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        /^HTTP\/1\.1 200 /,
      );
      assert.deepEqual(defects, []);
    });

    test("keeps answering after a malformed request", async () => {
      const idle = guests[1]?.connect("169.254.169.254", 80);
      idle?.on("error", () => undefined);
      idle?.write("nonsense\r\n\r\n");
      assert.match(await ask(guests[1], "GET /v1/status"), /^200 /);
    });
  });
});

function sourceOf(sandboxId: string): MetadataSource {
  return {
    status: () => ({ sandboxId, uptime: 7 }),
    limits: () => Promise.resolve({ memLimit: 1 }),
    metadata: () => ({ region: "here", template: "default" }),
    scale: (asked) => Promise.resolve({ status: 200, body: { sandbox: sandboxId, asked } }),
  };
}
