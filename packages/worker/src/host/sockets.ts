import { dlopen, getInt32 } from "node:ffi";
import { closeSync } from "node:fs";
import { Socket } from "node:net";
import { constants } from "node:os";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { inNetworkNamespace } from "./libc.ts";

// Sockets in other network namespaces. Node makes sockets only in the namespace of its process, but it takes over a
// descriptor from another one. This file and libc.ts are the worker's only ones that use `node:ffi`.
const { functions: libc } = dlopen("libc.so.6", {
  __errno_location: { return: "pointer", arguments: [] },
  bind: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  dup3: { return: "i32", arguments: ["i32", "i32", "i32"] },
  if_nametoindex: { return: "u32", arguments: ["pointer"] },
  listen: { return: "i32", arguments: ["i32", "i32"] },
  recv: { return: "i64", arguments: ["i32", "pointer", "u64", "i32"] },
  send: { return: "i64", arguments: ["i32", "pointer", "u64", "i32"] },
  setsockopt: { return: "i32", arguments: ["i32", "i32", "i32", "pointer", "u32"] },
  socket: { return: "i32", arguments: ["i32", "i32", "i32"] },
});

const errnoAddress = libc.__errno_location();

const AF_INET = 2;
const AF_NETLINK = 16;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;

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
  const SOL_SOCKET = 1;
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
  const AF_UNIX = 1;
  // Node makes a stream of a unix socket, whose descriptor then becomes a copy of the other one. Both are read and
  // polled by the same system calls.
  const placeholder = openSocket(undefined, AF_UNIX, SOCK_STREAM, () => undefined);
  const stream = new Socket({ fd: placeholder, readable: true, writable: false });
  checked("dup3", libc.dup3(fd, placeholder, SOCK_CLOEXEC));
  return stream;
}

/** A netlink socket of `protocol`, by default in this process's own namespace. Reading from it never waits. */
export function openNetlinkSocket(protocol: number, namespace?: string): number {
  return openSocket(namespace, AF_NETLINK, SOCK_RAW, () => undefined, protocol);
}

/** The number of a network device in the calling thread's namespace. */
export function interfaceIndex(device: string): number {
  const index = libc.if_nametoindex(Buffer.from(`${device}\0`));
  if (index === 0) throw failure(`if_nametoindex ${device}`, getInt32(errnoAddress));
  return index;
}

export function sendBytes(fd: number, bytes: Uint8Array): void {
  const sent = Number(libc.send(fd, bytes, BigInt(bytes.length), 0));
  checked("send", sent);
}

/** The next message, cut to the size of `buffer`; undefined when none has arrived. */
export function receiveBytes(fd: number, buffer: Buffer): Buffer | undefined {
  const count = Number(libc.recv(fd, buffer, BigInt(buffer.length), 0));
  if (count >= 0) return buffer.subarray(0, count);
  const errno = getInt32(errnoAddress);
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

function checked(call: string, result: number): number {
  if (result < 0) throw failure(call, getInt32(errnoAddress));
  return result;
}

function failure(call: string, errno: number): SandboxError {
  const name = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
  return new SandboxError("unavailable", `${call}: ${name}`);
}
