import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setImmediate as nextTurn } from "node:timers/promises";
import { afterEach, beforeEach, suite, test } from "node:test";
import { openTcpListener, openUdpSocket } from "#host/kernel/sockets.ts";
import { compilePolicy } from "../policy.ts";
import { query } from "../testing/fake-resolver.ts";
import { inOwnHost } from "../testing/own-host.ts";
import { encodeRefusal, parseQuestion, type Question, responseCodes } from "./dns-message.ts";
import { MessageReader, withLength } from "./dns-stream.ts";
import { type NameServerOptions, serveNames } from "./name-server.ts";

const here = "/proc/self/ns/net";
const at = { address: "127.0.0.53", port: 53 };

inOwnHost(import.meta.filename, () => {
  suite("a guest's name server", () => {
    let stack: AsyncDisposableStack;
    const defects: unknown[] = [];

    beforeEach(() => {
      stack = new AsyncDisposableStack();
      defects.length = 0;
    });
    afterEach(async () => {
      await stack.disposeAsync();
      assert.deepEqual(defects, []);
    });

    function serve(ask: NameServerOptions["ask"], options: Partial<NameServerOptions> = {}): Disposable {
      return serveNames({
        sockets: { datagrams: openUdpSocket(here, at), streams: openTcpListener(here, at) },
        ask,
        pinned: { pin: () => undefined },
        policy: () => compilePolicy({ enabled: true }),
        refuse: () => undefined,
        defect: (error) => defects.push(error),
        ...options,
      });
    }

    /** Answers at once, without records. */
    function answered(question: Question): Promise<Buffer> {
      return Promise.resolve(encodeRefusal(question, responseCodes.noError));
    }

    function openStream(): Socket {
      const socket = connect(at.port, at.address);
      stack.defer(() => void socket.destroy());
      socket.on("error", () => socket.destroy());
      return socket;
    }

    test("can end while names are being resolved over UDP and TCP", async () => {
      const resolving = Promise.withResolvers<void>();
      const release = Promise.withResolvers<void>();
      let asked = 0;
      const server = serve(async (question) => {
        asked += 1;
        if (asked === 2) resolving.resolve();
        await release.promise;
        return encodeRefusal(question, responseCodes.noError);
      });
      const socket = createSocket("udp4");
      stack.defer(() => void socket.close());
      socket.send(query("slow.example"), at.port, at.address);
      const stream = openStream();
      stream.write(withLength(query("slow.example")));
      await resolving.promise;
      server[Symbol.dispose]();
      release.resolve();
      await once(stream, "close", { signal: AbortSignal.timeout(10_000) });
      // An error would come in one of the next turns, and fail this test.
      for (let turn = 0; turn < 10; turn += 1) await nextTurn();
    });

    test("answers a question that arrives byte by byte", async () => {
      stack.use(serve(answered));
      const stream = openStream();
      stream.setNoDelay();
      for (const byte of withLength(query("a.example"))) {
        stream.write(Buffer.from([byte]));
        await nextTurn();
      }
      const [chunk] = (await once(stream, "data", { signal: AbortSignal.timeout(10_000) })) as [Buffer];
      const [reply] = new MessageReader().push(chunk);
      assert.ok(reply !== undefined);
      assert.equal(parseQuestion(query("a.example"))?.id, reply.readUInt16BE(0));
    });

    test("closes a stream whose message is longer than any question", async () => {
      stack.use(serve(answered));
      const stream = openStream();
      stream.write(Buffer.from([0xff, 0xff]));
      await once(stream, "close", { signal: AbortSignal.timeout(10_000) });
    });

    test("limits the questions a second on a stream as it does for datagrams", async () => {
      let asked = 0;
      stack.use(
        serve((question) => {
          asked += 1;
          return answered(question);
        }),
      );
      const stream = openStream();
      stream.resume();
      const message = withLength(query("a.example"));
      // Sends questions as fast as the server reads, until the server closes the stream.
      const closed = once(stream, "close", { signal: AbortSignal.timeout(30_000) }).catch(() => undefined);
      const begun = performance.now();
      while (!stream.destroyed) {
        assert.ok(performance.now() - begun < 30_000, "the server closes the stream within 30 s");
        if (!stream.write(Buffer.concat(Array<Buffer>(100).fill(message)))) {
          await Promise.race([once(stream, "drain").catch(() => undefined), closed]);
        }
        await nextTurn();
      }
      const seconds = (performance.now() - begun) / 1000;
      assert.ok(asked >= 200 && asked <= 201 + 200 * seconds, `${asked} questions in ${seconds} s`);
    });
  });
});
