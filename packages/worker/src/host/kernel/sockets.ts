import { randomBytes } from "node:crypto";
import { closeSync } from "node:fs";
import { createServer, isIPv6, Socket } from "node:net";
import { constants } from "node:os";
import { checked, failure, getRawPointer, lastErrno, openLibc } from "./ffi.ts";
import { inNetworkNamespace } from "./libc.ts";

// Sockets in other network namespaces. Node makes sockets only in the namespace of its process, but it takes over a
// descriptor from another one.
const libc = openLibc({
  bind: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  connect: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  dup3: { return: "i32", arguments: ["i32", "i32", "i32"] },
  getpeername: { return: "i32", arguments: ["i32", "pointer", "pointer"] },
  if_nametoindex: { return: "u32", arguments: ["pointer"] },
  inet_pton: { return: "i32", arguments: ["i32", "pointer", "pointer"] },
  listen: { return: "i32", arguments: ["i32", "i32"] },
  recv: { return: "i64", arguments: ["i32", "pointer", "u64", "i32"] },
  recvmsg: { return: "i64", arguments: ["i32", "pointer", "i32"] },
  send: { return: "i64", arguments: ["i32", "pointer", "u64", "i32"] },
  sendmsg: { return: "i64", arguments: ["i32", "pointer", "i32"] },
  setsockopt: { return: "i32", arguments: ["i32", "i32", "i32", "pointer", "u32"] },
  socket: { return: "i32", arguments: ["i32", "i32", "i32"] },
  socketpair: { return: "i32", arguments: ["i32", "i32", "i32", "pointer"] },
});

const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const AF_VSOCK = 40;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
const SOCK_SEQPACKET = 5;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;

/** Connections that may wait to be accepted. The kernel uses at most net.core.somaxconn. */
const backlog = 512;

/** An IPv4 address in dotted notation and a port. */
export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

/** A bound UDP socket of the namespace, for `dgram.Socket.bind({ fd })`. */
export function openUdpSocket(namespace: string, at: Endpoint): number {
  return openSocket(namespace, AF_INET, SOCK_DGRAM, (fd) => bind(fd, at));
}

/**
 * A listening TCP socket of the namespace, for `net.Server.listen({ fd })`. A transparent one accepts connections to any
 * address, which is then their local address (tproxy in the kernel's documentation).
 */
export function openTcpListener(
  namespace: string,
  at: Endpoint,
  { transparent = false }: { readonly transparent?: boolean } = {},
): number {
  const SO_REUSEADDR = 2;
  const SOL_IP = 0;
  const IP_TRANSPARENT = 19;
  return openSocket(namespace, AF_INET, SOCK_STREAM, (fd) => {
    setOption(fd, SOL_SOCKET, SO_REUSEADDR);
    if (transparent) setOption(fd, SOL_IP, IP_TRANSPARENT);
    bind(fd, at);
    checked("listen", libc.listen(fd, backlog));
  });
}

/** An unconnected TCP socket of the namespace, for `new net.Socket({ fd })`. */
export function openTcpSocket(namespace: string): number {
  return openSocket(namespace, AF_INET, SOCK_STREAM, () => undefined);
}

/**
 * A connecting socket of the namespace, or of this process's own where none is given. `address` is IPv4 or IPv6, with its
 * interface after a percent sign if it is link-local. The connection may still fail.
 * @throws `unavailable` when there is no route
 */
export function openConnection(
  kind: "udp" | "tcp",
  namespace: string | undefined,
  { address, port }: Endpoint,
): number {
  const [host = "", device] = address.split("%");
  const domain = isIPv6(host) ? AF_INET6 : AF_INET;
  const type = kind === "udp" ? SOCK_DGRAM : SOCK_STREAM;
  return openSocket(namespace, domain, type, (fd) => {
    const name = Buffer.alloc(domain === AF_INET6 ? 28 : 16);
    name.writeUInt16LE(domain, 0);
    name.writeUInt16BE(port, 2);
    const bytes = name.subarray(domain === AF_INET6 ? 8 : 4);
    if (libc.inet_pton(domain, Buffer.from(`${host}\0`), bytes) !== 1)
      throw failure("inet_pton", constants.errno.EINVAL);
    if (domain === AF_INET6 && device !== undefined) name.writeUInt32LE(interfaceIndex(device), 24);
    if (libc.connect(fd, name, name.length) === 0) return;
    const errno = lastErrno();
    if (errno !== constants.errno.EINPROGRESS) throw failure(`connect to ${address}:${port}`, errno);
  });
}

/** A pair of non-blocking sockets that carry descriptors from one process to another. */
export function openDescriptorPair(): readonly [one: number, other: number] {
  const ends = Buffer.alloc(8);
  checked("socketpair", libc.socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
  return [ends.readInt32LE(0), ends.readInt32LE(4)];
}

/** Sends copies of descriptors as one message. False when the receiver has too many unread messages, or is gone. */
export function sendDescriptors(fd: number, descriptors: readonly number[]): boolean {
  const MSG_NOSIGNAL = 0x4000;
  const control = Buffer.alloc(controlHeaderBytes + 4 * descriptors.length);
  control.writeBigUInt64LE(BigInt(control.length), 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  for (const [index, descriptor] of descriptors.entries()) {
    control.writeInt32LE(descriptor, controlHeaderBytes + 4 * index);
  }
  const parts = messageOf(control);
  if (Number(libc.sendmsg(fd, parts.header, MSG_NOSIGNAL)) > 0) return true;
  const errno = lastErrno();
  const { EAGAIN, EPIPE, ECONNRESET, ETOOMANYREFS } = constants.errno as Record<string, number>;
  if ([EAGAIN, EPIPE, ECONNRESET, ETOOMANYREFS ?? 109].includes(errno)) return false;
  throw failure("sendmsg", errno);
}

/** The descriptors of the next message, at most `max` of them. @throws `unavailable` when no message waits */
export function receiveDescriptors(fd: number, max: number): readonly number[] {
  const MSG_CMSG_CLOEXEC = 0x4000_0000;
  const control = Buffer.alloc(controlHeaderBytes + 4 * max);
  const parts = messageOf(control);
  checked("recvmsg", Number(libc.recvmsg(fd, parts.header, MSG_CMSG_CLOEXEC)));
  const length = Number(parts.header.readBigUInt64LE(40));
  if (length < controlHeaderBytes || control.readInt32LE(12) !== SCM_RIGHTS) return [];
  const count = (Number(control.readBigUInt64LE(0)) - controlHeaderBytes) / 4;
  return Array.from({ length: count }, (_, index) => control.readInt32LE(controlHeaderBytes + 4 * index));
}

/** struct cmsghdr: a length, a level and a type. */
const controlHeaderBytes = 16;
const SCM_RIGHTS = 1;

/** A struct msghdr with one byte of data, which a control message needs. `kept` must live as long as `header`. */
function messageOf(control: Buffer): { readonly header: Buffer; readonly kept: readonly Buffer[] } {
  const data = Buffer.alloc(1);
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(getRawPointer(data), 0);
  vector.writeBigUInt64LE(1n, 8);
  const header = Buffer.alloc(56);
  header.writeBigUInt64LE(getRawPointer(vector), 16);
  header.writeBigUInt64LE(1n, 24);
  header.writeBigUInt64LE(getRawPointer(control), 32);
  header.writeBigUInt64LE(BigInt(control.length), 40);
  return { header, kept: [data, vector, control] };
}

/** The messages of a netlink multicast group about this process's own namespace, as a stream. */
export function listenToNetlink(protocol: number, group: number): Socket {
  const fd = openSocket(undefined, AF_NETLINK, SOCK_RAW, (fd) => joinGroup(fd, group), protocol);
  try {
    return readingFrom(fd);
  } finally {
    closeSync(fd);
  }
}

/** A stream that reads from a copy of a descriptor of a kind that Node knows no stream for. */
export function readingFrom(fd: number): Socket {
  // Node makes a stream of a unix socket, whose descriptor then becomes a copy of the other one. Both are read and polled by
  // the same system calls.
  const copy = openSocket(undefined, AF_UNIX, SOCK_STREAM, () => undefined);
  const stream = new Socket({ fd: copy, readable: true, writable: false });
  checked("dup3", libc.dup3(fd, copy, SOCK_CLOEXEC));
  return stream;
}

/** A vsock address. The kernel vouches for the CID: vhost-vsock drops packets that a guest sends in another one's name. */
export interface VsockAddress {
  readonly cid: number;
  readonly port: number;
}

/** Disposing it refuses further connections, and leaves the accepted ones open. */
export interface VsockListener extends Disposable {
  readonly port: number;
}

/** Opens a listener; `onConnection` receives each connection, paused, and owns it. */
export type ListenOnVsock = (onConnection: (socket: Socket, peer: VsockAddress) => void) => VsockListener;

/** Listens at a random vsock port of this host. @throws `unavailable` where the kernel has no vsock */
export const listenOnVsock: ListenOnVsock = (onConnection) => {
  const server = createServer({ pauseOnConnect: true }, (socket) => {
    const peer = vsockPeer(socket);
    // Without a peer it has been reset already.
    if (peer === undefined) socket.destroy();
    else onConnection(socket, peer);
  });
  // A connection that cannot be accepted is lost alone.
  server.on("error", () => undefined);
  const { fd: listener, port } = openVsockListener();
  try {
    // Node asks a descriptor for its kind and knows no vsock, so it gets a unix socket, whose descriptor then becomes a copy
    // of the listener. Both are accepted from by the same system calls.
    const copy = openSocket(undefined, AF_UNIX, SOCK_STREAM, (fd) => {
      // A name without a path: the kernel chooses one that is no file.
      const unnamed = Buffer.alloc(2);
      unnamed.writeUInt16LE(AF_UNIX, 0);
      checked("bind", libc.bind(fd, unnamed, unnamed.length));
    });
    server.listen({ fd: copy });
    checked("dup3", libc.dup3(listener, copy, SOCK_CLOEXEC));
  } finally {
    closeSync(listener);
  }
  return { port, [Symbol.dispose]: () => void server.close() };
};

/** Why this kernel has no vsock sockets: the name of an error number. Undefined: it has them. */
export function vsockRefusal(): string | undefined {
  try {
    closeSync(openVsockListener().fd);
    return undefined;
  } catch (error) {
    return ((error as Error).cause as NodeJS.ErrnoException).code;
  }
}

/** Listeners have ports from here on. Smaller ones are for programs that choose their own. */
const firstListeningPort = 2 ** 31;

function openVsockListener(): { readonly fd: number; readonly port: number } {
  let port: number;
  const listen = (fd: number): void => {
    for (;;) {
      port = firstListeningPort + (randomBytes(4).readUInt32LE() >>> 1);
      const name = vsockAddress(anyCid, port);
      if (port !== anyPort && libc.bind(fd, name, name.length) === 0) break;
      const errno = lastErrno();
      if (port !== anyPort && errno !== constants.errno.EADDRINUSE) throw failure("bind to a vsock port", errno);
    }
    checked("listen", libc.listen(fd, backlog));
  };
  const fd = openSocket(undefined, AF_VSOCK, SOCK_STREAM, listen);
  return { fd, port: port! };
}

/** The other end of an accepted connection; undefined when it has been reset. */
function vsockPeer(socket: Socket): VsockAddress | undefined {
  // Node has no public name for the descriptor.
  const { fd } = (socket as unknown as { readonly _handle: { readonly fd: number } })._handle;
  const name = Buffer.alloc(16);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(name.length);
  if (libc.getpeername(fd, name, length) !== 0) return undefined;
  return { port: name.readUInt32LE(4), cid: name.readUInt32LE(8) };
}

const anyCid = 0xffff_ffff;
/** Asks the kernel to choose. */
const anyPort = 0xffff_ffff;

/** A struct sockaddr_vm: family, a reserved field, port and CID. */
function vsockAddress(cid: number, port: number): Buffer {
  const name = Buffer.alloc(16);
  name.writeUInt16LE(AF_VSOCK, 0);
  name.writeUInt32LE(port, 4);
  name.writeUInt32LE(cid, 8);
  return name;
}

/** A netlink socket of `protocol`, by default in this process's own namespace. Reading from it never waits. */
export function openNetlinkSocket(protocol: number, namespace?: string): number {
  return openSocket(namespace, AF_NETLINK, SOCK_RAW, () => undefined, protocol);
}

/** The number of a network device in the calling thread's namespace. */
export function interfaceIndex(device: string): number {
  const index = libc.if_nametoindex(Buffer.from(`${device}\0`));
  if (index === 0) throw failure(`if_nametoindex ${device}`, lastErrno());
  return index;
}

export function sendBytes(fd: number, bytes: Uint8Array): void {
  const sent = Number(libc.send(fd, bytes, BigInt(bytes.length), 0));
  checked("send", sent);
}

/** The next message, cut to the size of `buffer`; undefined when no message has arrived. */
export function receiveBytes(fd: number, buffer: Buffer): Buffer | undefined {
  const count = Number(libc.recv(fd, buffer, BigInt(buffer.length), 0));
  if (count >= 0) return buffer.subarray(0, count);
  const errno = lastErrno();
  if (errno === constants.errno.EAGAIN) return undefined;
  throw failure("recv", errno);
}

function openSocket(
  namespace: string | undefined,
  domain: number,
  type: number,
  prepare: (fd: number) => void,
  protocol = 0,
): number {
  const make = (): number => {
    const fd = checked("socket", libc.socket(domain, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
    try {
      prepare(fd);
      return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  };
  return namespace === undefined ? make() : inNetworkNamespace(namespace, make);
}

function joinGroup(fd: number, group: number): void {
  const name = Buffer.alloc(12);
  name.writeUInt16LE(AF_NETLINK, 0);
  name.writeUInt32LE(2 ** (group - 1), 8);
  checked("bind to netlink", libc.bind(fd, name, name.length));
}

function bind(fd: number, { address, port }: Endpoint): void {
  const name = Buffer.alloc(16);
  name.writeUInt16LE(AF_INET, 0);
  name.writeUInt16BE(port, 2);
  name.set(address.split(".").map(Number), 4);
  checked(`bind to ${address}:${port}`, libc.bind(fd, name, name.length));
}

function setOption(fd: number, level: number, name: number): void {
  const on = Buffer.alloc(4);
  on.writeInt32LE(1);
  checked("setsockopt", libc.setsockopt(fd, level, name, on, on.length));
}
