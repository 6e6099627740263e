import { rename } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Transport } from "@opensandbox/wire/guest/channel.ts";
import type { Session } from "#server.ts";
import { socketTransport } from "./socket-transport.ts";

/** Listens at `path` for one host at a time: a new connection replaces the previous one. */
export async function listenOnUnixSocket(path: string, start: (transport: Transport) => Session): Promise<void> {
  let present: Socket | undefined;
  const server = createServer((socket) => {
    present?.destroy();
    present = socket;
    const session = start(socketTransport(socket));
    socket.on("data", (chunk: Buffer) => session.receive(chunk));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => session.close(new SandboxError("unavailable", "the host has disconnected")));
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  // The file appears before it accepts connections, and the host connects as soon as it appears.
  const early = `${path}.new`;
  server.listen(early, resolve);
  await promise;
  await rename(early, path);
}
