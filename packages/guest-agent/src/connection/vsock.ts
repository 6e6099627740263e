import { createServer, type Socket } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ConnectVsockRequest } from "@opensandbox/wire/guest/messages_pb.js";
import { agentVsockPort } from "@opensandbox/wire/guest/vsock.ts";
import { connectToHost, duplicateDescriptor, hostCid, openVsockListener, vsockPeer } from "#system/kernel/libc.ts";
import { type Served, serveDescriptor, type StartSession } from "./serve-descriptor.ts";

/**
 * Answers `connectVsock`: connects to the host and serves it there, once it has proved itself. A connection takes the place
 * of the one before.
 */
export function vsockConnector(start: StartSession): (request: ConnectVsockRequest) => Promise<object> {
  let present: Served | undefined;
  return async ({ port, proof, timeoutMs }) => {
    const descriptor = connectToHost(port, timeoutMs);
    if (descriptor === undefined) throw new SandboxError("not_supported", "the machine has no vsock");
    const served = serveDescriptor(descriptor, start, { proof });
    const timer = setTimeout(() => served.end(), timeoutMs + proofMs);
    try {
      await served.proved;
    } finally {
      clearTimeout(timer);
    }
    present?.end();
    present = served;
    return {};
  };
}

/** How long a host that has accepted a connection may take to prove itself, in milliseconds. A busy one takes seconds. */
const proofMs = 10_000;

/**
 * Listens on vsock for one host at a time: a new connection replaces the one before. The listener outlives a restore, which
 * resets its connections. False: the machine has no vsock.
 *
 * For a machine without a virtio-serial port: its hypervisor alone connects as the host. Other guests, and processes of
 * this one, have other CIDs.
 */
export function listenOnVsock(start: StartSession): boolean {
  const listener = openVsockListener(agentVsockPort);
  if (listener === undefined) return false;
  let present: Served | undefined;
  const server = createServer({ pauseOnConnect: true }, (socket) => {
    const descriptor = descriptorOf(socket);
    if (vsockPeer(descriptor) === hostCid) {
      present?.end();
      present = serveDescriptor(duplicateDescriptor(descriptor), start);
    }
    socket.destroy();
  });
  // A connection that cannot be accepted is lost alone.
  server.on("error", (error) => console.error(`vsock: ${error.message}`));
  server.listen({ fd: listener.descriptor });
  listener.become();
  return true;
}

/** Node has no public name for it. */
function descriptorOf(socket: Socket): number {
  return (socket as unknown as { readonly _handle: { readonly fd: number } })._handle.fd;
}
