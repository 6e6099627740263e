import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { connect as openConnection, type Socket } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import { type ConnectRequest, EmptySchema } from "@opensandbox/wire/guest/messages_pb.js";
import { untilDrained } from "#connection/until-drained.ts";

// A server may listen on only one of the two.
const loopback = ["127.0.0.1", "::1"];

/** Connects the host to a server in this machine and carries bytes both ways. */
export async function connect({ port }: ConnectRequest, stream: Stream): Promise<MessageInitShape<typeof EmptySchema>> {
  const socket = await connectToAny(port);
  const giveUp = (): void => void socket.destroy();
  stream.signal.addEventListener("abort", giveUp, { once: true });
  if (stream.signal.aborted) giveUp();
  try {
    await stream.sendMessage(EmptySchema, create(EmptySchema));
    // Ends when the server has ended its side; later bytes of the host are dropped.
    takeFromHost(stream, socket).catch(giveUp);
    for await (const chunk of socket as AsyncIterable<Buffer>) await stream.sendData(0, chunk);
    return {};
  } catch (cause) {
    throw new SandboxError("unavailable", `the connection to port ${port} broke`, { cause });
  } finally {
    stream.signal.removeEventListener("abort", giveUp);
    socket.destroy();
  }
}

async function connectToAny(port: number): Promise<Socket> {
  let refusal: NodeJS.ErrnoException | undefined;
  for (const host of loopback) {
    try {
      return await connectTo(host, port);
    } catch (error) {
      refusal ??= error as NodeJS.ErrnoException;
    }
  }
  if (refusal?.code !== "ECONNREFUSED") {
    throw new SandboxError("unavailable", `cannot connect to port ${port}: ${refusal?.message}`);
  }
  throw new SandboxError("not_found", `nothing listens on port ${port}`, { resource: "port", id: String(port) });
}

async function connectTo(host: string, port: number): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = openConnection({ host, port, allowHalfOpen: true, noDelay: true });
  socket.once("connect", resolve);
  socket.once("error", reject);
  try {
    await promise;
  } catch (error) {
    socket.destroy();
    throw error;
  }
  socket.off("error", reject);
  // Reading from the socket rejects with the same error.
  socket.on("error", () => undefined);
  return socket;
}

async function takeFromHost(stream: Stream, socket: Socket): Promise<void> {
  for (;;) {
    const incoming = await stream.next();
    if (incoming.kind === "end") return void socket.end();
    if (incoming.kind === "data") await write(socket, incoming.payload);
  }
}

/** Settles when the server has room for more. */
async function write(socket: Socket, bytes: Uint8Array): Promise<void> {
  if (!socket.destroyed && !socket.write(bytes)) await untilDrained(socket);
}
