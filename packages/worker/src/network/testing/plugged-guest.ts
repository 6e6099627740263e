import { createSocket } from "node:dgram";
import { closeSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import { inNetworkNamespace, openTap } from "#host/kernel/libc.ts";
import { runCommand } from "#host/run-command.ts";
import { openTcpSocket, openUdpSocket, readingFrom } from "#host/kernel/sockets.ts";
import { inner } from "../address-plan.ts";
import type { SandboxNetwork } from "../sandbox-network.ts";
import { guestMac } from "./frames.ts";

/** The outcome of a connection attempt. */
export type Outcome =
  /** TCP: the first line received; UDP: the reply. */
  | { readonly reached: string }
  /** The errno, or `silence` when nothing arrived for {@link silenceMs}. */
  | { readonly refused: string };

/**
 * A guest without a machine: a namespace with the guest's addresses at the other end of a network's TAP. Its frames
 * pass through here, so a test may also write any frame that a guest's kernel would never send.
 */
export interface PluggedGuest extends AsyncDisposable {
  readonly namespace: string;
  /** The frames that the guest has received. */
  readonly frames: readonly Buffer[];
  /** Sends an Ethernet frame unchanged. */
  sendFrame(frame: Buffer): void;
  tcp(address: string, port: number, say?: string | Buffer): Promise<Outcome>;
  udp(address: string, port: number, say?: string): Promise<Outcome>;
  /** A connecting socket in the guest. */
  connect(address: string, port: number): Socket;
}

/** How long a test waits before it concludes that nothing arrives. */
const silenceMs = 1500;

/** The header that the kernel puts before each frame (IFF_VNET_HDR); zeros: nothing special. */
const frameHeader = Buffer.alloc(10);

export async function plugGuest(network: SandboxNetwork): Promise<PluggedGuest> {
  const name = `guest-${network.slot}`;
  const namespace = `/run/netns/${name}`;
  await runCommand("make a guest", ["ip", "-batch", "-"], { input: `netns add ${name}\n` });
  await runCommand("make a guest", ["ip", "-n", name, "-batch", "-"], {
    input: `link set lo up
tuntap add eth0 mode tap vnet_hdr
link set eth0 address ${guestMac}
addr add ${inner.guest}/${inner.prefix} dev eth0
link set eth0 up
route add default via ${inner.gateway}
`,
  });
  const { attachment } = network;
  const outside = inNetworkNamespace(attachment.namespace, () => attachment.openTap());
  const inside = inNetworkNamespace(namespace, () => openTap("eth0"));
  const frames: Buffer[] = [];
  const pumps = [
    pump(outside, inside, (frame) => frames.push(frame.subarray(frameHeader.length))),
    pump(inside, outside, () => undefined),
  ];
  return {
    namespace,
    frames,
    sendFrame: (frame) => writeFrame(outside, Buffer.concat([frameHeader, frame])),
    tcp: async (address, port, say) => await tryTcp(connectFrom(namespace, address, port), say),
    udp: async (address, port, say = "hello") => await tryUdp(namespace, address, port, say),
    connect: (address, port) => connectFrom(namespace, address, port),
    async [Symbol.asyncDispose]() {
      for (const stream of pumps) stream.destroy();
      closeSync(outside);
      closeSync(inside);
      await runCommand("end a guest", ["ip", "netns", "del", name]);
    },
  };
}

/** Copies frames: each read is one frame, and each write must be. */
function pump(from: number, to: number, onFrame: (frame: Buffer) => void): Socket {
  const stream = readingFrom(from);
  stream.on("data", (frame: Buffer) => {
    onFrame(frame);
    writeFrame(to, frame);
  });
  stream.on("error", () => stream.destroy());
  return stream;
}

function writeFrame(fd: number, frame: Buffer): void {
  try {
    writeSync(fd, frame);
  } catch (error) {
    // A device that is down or full loses the frame, like a cable.
    if (!["EIO", "EAGAIN", "EBADF"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
}

function connectFrom(namespace: string, address: string, port: number): Socket {
  const socket = new Socket({ fd: openTcpSocket(namespace) });
  socket.connect(port, address);
  return socket;
}

async function tryTcp(socket: Socket, say: string | Buffer | undefined): Promise<Outcome> {
  const { promise, resolve } = Promise.withResolvers<Outcome>();
  socket.setTimeout(silenceMs, () => resolve({ refused: "silence" }));
  socket.on("error", (error: NodeJS.ErrnoException) => resolve({ refused: error.code ?? error.message }));
  socket.on("end", () => resolve({ refused: "end" }));
  socket.once("data", (bytes: Buffer) => resolve({ reached: bytes.toString("latin1").split("\n")[0] ?? "" }));
  if (say !== undefined) socket.write(say);
  try {
    return await promise;
  } finally {
    socket.destroy();
  }
}

async function tryUdp(namespace: string, address: string, port: number, say: string): Promise<Outcome> {
  const socket = createSocket("udp4");
  socket.bind({ fd: openUdpSocket(namespace, { address: "0.0.0.0", port: 0 }) });
  const { promise, resolve } = Promise.withResolvers<Outcome>();
  const timer = setTimeout(() => resolve({ refused: "silence" }), silenceMs);
  socket.on("error", (error: NodeJS.ErrnoException) => resolve({ refused: error.code ?? error.message }));
  socket.on("message", (message) => resolve({ reached: message.toString("latin1") }));
  socket.connect(port, address, () => socket.send(say));
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    socket.close();
  }
}
