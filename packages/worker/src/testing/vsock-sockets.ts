import { closeSync, readdirSync } from "node:fs";
import { Socket } from "node:net";
import { constants } from "node:os";
import { checked, failure, lastErrno, openLibc } from "#host/kernel/ffi.ts";
import type { VsockAddress } from "#host/kernel/sockets.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";

const libc = openLibc({
  connect: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  dup3: { return: "i32", arguments: ["i32", "i32", "i32"] },
  getpeername: { return: "i32", arguments: ["i32", "pointer", "pointer"] },
  getsockname: { return: "i32", arguments: ["i32", "pointer", "pointer"] },
  getsockopt: { return: "i32", arguments: ["i32", "i32", "i32", "pointer", "pointer"] },
  setsockopt: { return: "i32", arguments: ["i32", "i32", "i32", "pointer", "u32"] },
  socket: { return: "i32", arguments: ["i32", "i32", "i32"] },
});

const AF_UNIX = 1;
const AF_VSOCK = 40;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_ERROR = 4;
const SO_VM_SOCKETS_CONNECT_TIMEOUT = 6;

/** An emulated guest may be slow to accept; the kernel's own limit is 2 s. */
const connectSeconds = 60;

/** The vsock sockets of this process. A listener has no peer. */
export function vsockSockets(): readonly { readonly port: number; readonly peer: VsockAddress | undefined }[] {
  const sockets = readdirSync("/proc/self/fd").map((fd) => {
    const own = nameOf(libc.getsockname, Number(fd));
    return own === undefined ? [] : [{ port: own.port, peer: nameOf(libc.getpeername, Number(fd)) }];
  });
  return sockets.flat();
}

function nameOf(call: typeof libc.getsockname, fd: number): VsockAddress | undefined {
  const name = Buffer.alloc(128);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(name.length);
  if (call(fd, name, length) !== 0 || name.readUInt16LE(0) !== AF_VSOCK) return undefined;
  return { port: name.readUInt32LE(4), cid: name.readUInt32LE(8) };
}

/** Connects this process to a port of a guest. @throws `unavailable` with the errno when nothing accepts there */
export async function connectVsock(cid: number, port: number): Promise<Socket> {
  const kind = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  const call = `connect to vsock ${cid}:${port}`;
  const fd = checked("socket", libc.socket(AF_VSOCK, kind, 0));
  try {
    // A struct timeval.
    const timeout = Buffer.alloc(16);
    timeout.writeUInt32LE(connectSeconds);
    checked("setsockopt", libc.setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, timeout, timeout.length));
    const name = Buffer.alloc(16);
    name.writeUInt16LE(AF_VSOCK, 0);
    name.writeUInt32LE(port, 4);
    name.writeUInt32LE(cid, 8);
    if (libc.connect(fd, name, name.length) !== 0 && lastErrno() !== constants.errno.EINPROGRESS) {
      throw failure(call, lastErrno());
    }
    const isConnected = (): boolean => {
      const errno = pendingError(fd);
      if (errno !== 0) throw failure(call, errno);
      return nameOf(libc.getpeername, fd) !== undefined;
    };
    await eventually(call, isConnected, { withinMs: 2 * connectSeconds * 1000 });
    // Node knows no vsock. A unix socket, whose descriptor becomes a copy, is used by the same system calls.
    const copy = checked("socket", libc.socket(AF_UNIX, kind, 0));
    const stream = new Socket({ fd: copy, readable: true, writable: true });
    checked("dup3", libc.dup3(fd, copy, SOCK_CLOEXEC));
    return stream.on("error", () => undefined);
  } finally {
    closeSync(fd);
  }
}

/** The error number of a connection that has failed; 0 while it is being made and afterwards. */
function pendingError(fd: number): number {
  const value = Buffer.alloc(4);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(value.length);
  checked("getsockopt", libc.getsockopt(fd, SOL_SOCKET, SO_ERROR, value, length));
  return value.readInt32LE();
}
