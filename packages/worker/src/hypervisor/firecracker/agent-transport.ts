import type { Socket } from "node:net";
import { type AgentTransport, type Attempt, untilGreeted } from "#host/agent-transport.ts";
import { connectForeignSocket } from "#host/kernel/foreign-files.ts";
import { agentVsockPort } from "@opensandbox/wire/guest/vsock.ts";

/**
 * The unix socket `path` of a VM's vsock device. Firecracker connects a client to the guest's port that it names, and a
 * restored guest resets all connections of its past.
 */
export function firecrackerTransport(path: string): AgentTransport {
  return { name: "vsock", endsAt: "agent", open: (signal) => untilGreeted(() => connectOnce(path), signal) };
}

/** Firecracker itself gives a guest two seconds to accept a connection. */
const acceptTimeoutMs = 3_000;

/** Firecracker answers `OK <port>`, and closes a connection that the guest refuses. */
const maxAnswerBytes = 32;

async function connectOnce(path: string): Promise<Attempt | undefined> {
  const socket = connectForeignSocket(path);
  if (socket === undefined) return undefined;
  socket.write(`CONNECT ${agentVsockPort}\n`);
  const { promise, resolve } = Promise.withResolvers<boolean>();
  let received = Buffer.alloc(0);
  const onData = (chunk: Buffer): void => {
    received = Buffer.concat([received, chunk]);
    const end = received.indexOf("\n");
    if (end === -1 && received.length <= maxAnswerBytes) return;
    socket.pause();
    // The agent's greeting may follow at once.
    if (received.length > end + 1) socket.unshift(received.subarray(end + 1));
    resolve(end !== -1 && /^OK \d+$/.test(received.toString("latin1", 0, end)));
  };
  const onEnd = (): void => resolve(false);
  socket.on("data", onData);
  for (const event of ["error", "end", "close"]) socket.on(event, onEnd);
  const timer = setTimeout(onEnd, acceptTimeoutMs);
  const isAccepted = await promise;
  clearTimeout(timer);
  socket.off("data", onData);
  for (const event of ["end", "close"]) socket.off(event, onEnd);
  if (!isAccepted) {
    socket.destroy();
    return undefined;
  }
  return { socket: forgetting(socket, onEnd), isAccepted: () => true };
}

/** Removes the listener for errors, which was needed until now: the socket's next owner has its own. */
function forgetting(socket: Socket, onError: () => void): Socket {
  socket.off("error", onError);
  return socket;
}
