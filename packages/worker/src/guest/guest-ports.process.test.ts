import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test, type TestContext } from "node:test";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { fakeHypervisor } from "#hypervisor/fake/fake-hypervisor.ts";
import type { Vm } from "#hypervisor/hypervisor.ts";
import { GuestClient } from "./guest-client.ts";
import { guestPorts } from "./guest-ports.ts";

const never = new AbortController().signal;

// Connections to ports through the agent's real channel; the machine is a process of this host.
suite("ports of a guest", () => {
  let directory: string;
  let machine: Vm;
  let guest: GuestClient;
  const ports = guestPorts(() => guest);

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-ports-"));
    const agent = join(import.meta.dirname, "../../../guest-agent/src/main.ts");
    const hypervisor = fakeHypervisor([process.execPath, "--disable-warning=ExperimentalWarning", agent]);
    const nothing = { kernel: "", initramfs: "", bootArguments: [], disks: [], network: { kind: "none" } } as const;
    machine = await hypervisor.boot(
      { directory, vcpus: 1, memoryMib: 256, hotplugMib: 0, memoryBase: "", ...nothing },
      never,
    );
    guest = await GuestClient.connect(machine.agentTransport);
  });
  after(async () => {
    guest?.[Symbol.dispose]();
    await machine?.[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  /** A server on localhost for the time of a test. */
  async function listen(t: TestContext, serve: (socket: Socket) => void, host = "127.0.0.1"): Promise<number> {
    const sockets = new Set<Socket>();
    const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.add(socket);
      socket.on("error", () => undefined);
      serve(socket);
    });
    server.listen({ port: 0, host });
    await eventOf(server, "listening");
    t.after(() => {
      server.close();
      for (const socket of sockets) socket.destroy();
    });
    return (server.address() as AddressInfo).port;
  }

  async function textOf(incoming: AsyncIterable<Uint8Array>): Promise<string> {
    let text = "";
    for await (const bytes of incoming) text += Buffer.from(bytes).toString("latin1");
    return text;
  }

  for (const host of ["127.0.0.1", "::1"]) {
    test(`bytes flow both ways, and each side ends on its own: ${host}`, async (t) => {
      const port = await listen(t, (socket) => socket.pipe(socket), host);
      const connection = await ports.open(port, never);
      await connection.write(Buffer.from("to and "));
      await connection.write(Buffer.from("fro"));
      await connection.end();
      assert.equal(await textOf(connection.incoming), "to and fro");
    });
  }

  test("a port without a listener is not found", async (t) => {
    const port = await listen(t, (socket) => socket.end());
    await ports.open(port, never);
    await assert.rejects(ports.open(1, never), (error) => isSandboxError(error, "not_found"));
  });

  test("input for a server that has ended is dropped without an error", async (t) => {
    const port = await listen(t, (socket) => socket.end("bye"));
    const connection = await ports.open(port, never);
    assert.equal(await textOf(connection.incoming), "bye");
    await connection.write(Buffer.alloc(2 ** 20));
    await connection.end();
  });

  test("a connection that breaks is an error", async (t) => {
    const port = await listen(t, (socket) => {
      socket.write("half");
      socket.once("data", () => socket.resetAndDestroy());
    });
    const connection = await ports.open(port, never);
    const text = textOf(connection.incoming);
    await connection.write(Buffer.from("now"));
    await assert.rejects(text, (error) => isSandboxError(error, "unavailable"));
  });

  test("aborting ends the connection", async (t) => {
    const ended = Promise.withResolvers<void>();
    const port = await listen(t, (socket) => socket.resume().once("end", () => ended.resolve()));
    const caller = new AbortController();
    const connection = await ports.open(port, caller.signal);
    caller.abort();
    await assert.rejects(textOf(connection.incoming), (error) => isSandboxError(error, "canceled"));
    await ended.promise;
  });

  test("a slow reader blocks only its own server", async (t) => {
    let sent = 0;
    const stuck = Promise.withResolvers<void>();
    const port = await listen(t, (socket) => {
      const chunk = Buffer.alloc(64 * 1024, "x");
      const fill = (): void => {
        while (sent < 64 * 2 ** 20) {
          sent += chunk.length;
          if (!socket.write(chunk)) break;
        }
        if (sent >= 64 * 2 ** 20) socket.end();
      };
      socket.on("drain", fill);
      fill();
      stuck.resolve();
    });
    const connection = await ports.open(port, never);
    await stuck.promise;
    // Other connections continue while this one has no reader.
    const echo = await listen(t, (socket) => socket.pipe(socket));
    const other = await ports.open(echo, never);
    await other.write(Buffer.from("hello"));
    await other.end();
    assert.equal(await textOf(other.incoming), "hello");
    // The kernel, the agent and the channel together buffer a few megabytes at most.
    assert.ok(sent < 32 * 2 ** 20, `${sent} bytes were sent without a reader`);
    let received = 0;
    for await (const bytes of connection.incoming) received += bytes.length;
    assert.equal(received, 64 * 2 ** 20);
  });
});
