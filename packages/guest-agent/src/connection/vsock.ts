import { createServer, type Socket } from "node:net";
import { agentVsockPort } from "@opensandbox/wire/guest/vsock.ts";
import { duplicateDescriptor, openVsockListener, vsockPeer } from "#system/kernel/libc.ts";
import { type Served, serveDescriptor, type StartSession } from "./serve-descriptor.ts";

/** The CID of the host, for every guest. */
const hostCid = 2;

/** Ports below this one can only be used with the right to them, which on the host only the worker has. */
const firstUnprivilegedPort = 1024;

/**
 * Listens on vsock for one host at a time: a new connection replaces the previous one. The listener outlives a restore
 * with another CID, which resets its connections. False: the machine has no vsock.
 *
 * `fromAnyPort`: the hypervisor alone can connect. Otherwise any process of the host can, and only privileged ports
 * count. Other guests, and processes of this one, have other CIDs.
 */
export function listenOnVsock(start: StartSession, { fromAnyPort }: { readonly fromAnyPort: boolean }): boolean {
  const listener = openVsockListener(agentVsockPort);
  if (listener === undefined) return false;
  let present: Served | undefined;
  const server = createServer({ pauseOnConnect: true }, (socket) => {
    const descriptor = descriptorOf(socket);
    const peer = vsockPeer(descriptor);
    if (peer?.cid === hostCid && (fromAnyPort || peer.port < firstUnprivilegedPort)) {
      present?.end();
      present = serveDescriptor(duplicateDescriptor(descriptor), new Uint8Array(0), start);
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
