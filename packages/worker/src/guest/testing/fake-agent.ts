import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Channel, type Stream } from "@opensandbox/wire/guest/channel.ts";
import { virtioSerialTransport } from "#host/agent-transport.ts";
import { GuestClient, type GuestClientOptions } from "../guest-client.ts";

/** What a test's agent does with a stream that the worker has opened. */
export type Serve = (stream: Stream, method: number, request: Uint8Array) => Promise<void>;

/** The worker's end of an agent channel, and the other end, where a test plays the agent. */
export interface FakeAgent extends AsyncDisposable {
  readonly guest: GuestClient;
  readonly socket: Socket;
  /** The agent's socket file; further connections are accepted and never read. */
  readonly path: string;
  /** The client's reports. */
  readonly reported: readonly { readonly message: string; readonly error: unknown }[];
}

/** An agent that greets and then answers as `serve` does, well or badly. */
export async function startFakeAgent(serve: Serve, options: GuestClientOptions = {}): Promise<FakeAgent> {
  const reported: { message: string; error: unknown }[] = [];
  const directory = await mkdtemp(join(tmpdir(), "osb-agent-"));
  const path = join(directory, "agent.sock");
  const server = createServer();
  server.listen(path);
  await eventOf(server, "listening");
  const connections = new Set<Socket>();
  server.on("connection", (connection: Socket) => connections.add(connection));
  const connected = once(server, "connection") as Promise<[Socket]>;
  const guest = await GuestClient.connect(virtioSerialTransport(path), {
    report: (message, error) => reported.push({ message, error }),
    ...options,
  });
  const [socket] = await connected;
  socket.on("error", () => undefined);
  // Each write that has to wait adds listeners.
  socket.setMaxListeners(0);
  const channel: Channel = new Channel(
    {
      async write(bytes) {
        if (!socket.write(bytes)) await Promise.race([once(socket, "drain"), once(socket, "close")]);
      },
    },
    {
      hello: (_, epoch) => {
        channel.startEpoch(epoch, new SandboxError("unavailable", "a new epoch"));
        // A client that has disconnected receives nothing.
        channel.sendHello({ version: "test", instance: 1n }).catch(() => undefined);
      },
      // Serving a stream ends with an error when the worker gives the stream up.
      opened: (stream, method, request) => void serve(stream, method, request).catch(() => undefined),
    },
  );
  socket.on("data", (chunk: Buffer) => channel.receive(chunk));
  await guest.ready(AbortSignal.timeout(5000));
  return {
    ...{ guest, socket, path, reported },
    async [Symbol.asyncDispose]() {
      guest[Symbol.dispose]();
      for (const connection of connections) connection.destroy();
      server.close();
      await rm(directory, { recursive: true });
    },
  };
}
