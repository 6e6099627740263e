// Runs on the host or inside a guest, on the runtime of the agent disk: vsock sockets by system calls.
//   cid                          prints the guest's own address
//   connect CID FIRST COUNT      connects to COUNT ports from FIRST on; prints how often each outcome came
//   serve PORT LOG               answers each line of one connection after another; LOG gets a line for each that ends
import { dlopen, getInt32 } from "node:ffi";
import { appendFileSync, openSync } from "node:fs";
import { constants } from "node:os";

const { functions: libc } = dlopen("libc.so.6", {
  __errno_location: { return: "pointer", arguments: [] },
  accept: { return: "i32", arguments: ["i32", "u64", "u64"] },
  bind: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  close: { return: "i32", arguments: ["i32"] },
  connect: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  getsockopt: { return: "i32", arguments: ["i32", "i32", "i32", "pointer", "pointer"] },
  ioctl: { return: "i32", arguments: ["i32", "u64", "pointer"] },
  listen: { return: "i32", arguments: ["i32", "i32"] },
  poll: { return: "i32", arguments: ["pointer", "u64", "i32"] },
  recv: { return: "i64", arguments: ["i32", "pointer", "u64", "i32"] },
  send: { return: "i64", arguments: ["i32", "pointer", "u64", "i32"] },
  setsockopt: { return: "i32", arguments: ["i32", "i32", "i32", "pointer", "u32"] },
  socket: { return: "i32", arguments: ["i32", "i32", "i32"] },
});
const errnoAddress = libc.__errno_location();

const AF_VSOCK = 40;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;

/** Connections that are made at the same time. */
const batch = 250;

const [what = "", ...numbers] = process.argv.slice(2);

switch (what) {
  case "cid":
    console.log(ownCid());
    break;
  case "connect":
    console.log(JSON.stringify(connectTo(Number(numbers[0]), Number(numbers[1]), Number(numbers[2]))));
    break;
  case "serve":
    serve(Number(numbers[0]), String(numbers[1]));
    break;
  default:
    throw new Error(`unknown: ${what}`);
}

function ownCid(): number {
  const IOCTL_VM_SOCKETS_GET_LOCAL_CID = 0x7b9n;
  const cid = Buffer.alloc(4);
  checked(libc.ioctl(openSync("/dev/vsock", "r"), IOCTL_VM_SOCKETS_GET_LOCAL_CID, cid));
  return cid.readUInt32LE();
}

function connectTo(cid: number, first: number, count: number): Record<string, number> {
  const outcomes: Record<string, number> = {};
  for (let from = first; from < first + count; from += batch) {
    const to = Math.min(from + batch, first + count);
    const connecting = [];
    for (let port = from; port < to; port += 1) connecting.push(startConnection(cid, port));
    for (const { fd, errno } of connecting) {
      const outcome = nameOf(errno === constants.errno.EINPROGRESS ? resultOf(fd) : errno);
      outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
      libc.close(fd);
    }
  }
  return outcomes;
}

function startConnection(cid: number, port: number): { readonly fd: number; readonly errno: number } {
  const fd = checked(libc.socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0));
  limitConnect(fd, 500);
  return { fd, errno: libc.connect(fd, address(cid, port), 16) === 0 ? 0 : getInt32(errnoAddress) };
}

/** The error number of a pending connection; 0 when it was made. */
function resultOf(fd: number): number {
  const POLLOUT = 4;
  const SOL_SOCKET = 1;
  const SO_ERROR = 4;
  const waiting = Buffer.alloc(8);
  waiting.writeInt32LE(fd, 0);
  waiting.writeInt16LE(POLLOUT, 4);
  if (checked(libc.poll(waiting, 1n, 60_000)) === 0) throw new Error("a connection was neither made nor refused");
  const [error, length] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32LE(error.length);
  checked(libc.getsockopt(fd, SOL_SOCKET, SO_ERROR, error, length));
  return error.readInt32LE();
}

function nameOf(errno: number): string {
  if (errno === 0) return "connected";
  return Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
}

/** A connection that nobody answers is given up after this time. The kernel's own limit is two seconds. */
function limitConnect(fd: number, milliseconds: number): void {
  const SO_VM_SOCKETS_CONNECT_TIMEOUT = 6;
  const time = Buffer.alloc(16);
  time.writeBigInt64LE(BigInt(Math.floor(milliseconds / 1000)), 0);
  time.writeBigInt64LE(BigInt((milliseconds % 1000) * 1000), 8);
  checked(libc.setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, time, 16));
}

function serve(port: number, log: string): never {
  const anyCid = 0xffff_ffff;
  const listener = checked(libc.socket(AF_VSOCK, SOCK_STREAM, 0));
  checked(libc.bind(listener, address(anyCid, port), 16));
  checked(libc.listen(listener, 4));
  appendFileSync(log, "listening\n");
  const line = Buffer.alloc(4096);
  for (;;) {
    const fd = checked(libc.accept(listener, 0n, 0n));
    for (;;) {
      const count = libc.recv(fd, line, BigInt(line.length), 0);
      if (count <= 0n) {
        appendFileSync(log, `${count === 0n ? "ended" : errnoName()}\n`);
        break;
      }
      libc.send(fd, line, count, 0);
    }
    libc.close(fd);
  }
}

function address(cid: number, port: number): Buffer {
  const name = Buffer.alloc(16);
  name.writeUInt16LE(AF_VSOCK, 0);
  name.writeUInt32LE(port, 4);
  name.writeUInt32LE(cid, 8);
  return name;
}

function checked(result: number): number {
  if (result < 0) throw new Error(errnoName());
  return result;
}

function errnoName(): string {
  return nameOf(getInt32(errnoAddress));
}
