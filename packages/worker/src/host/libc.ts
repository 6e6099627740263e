import { constants } from "node:os";
import { dlopen, getInt32 } from "node:ffi";
import { closeSync, openSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";

// The host's system calls that Node does not offer. `node:ffi` is experimental in Node 26, which is one reason
// why the runtime is pinned, and why this is the worker's only file that uses it. All of them are synchronous.
const { functions: libc } = dlopen("libc.so.6", {
  __errno_location: { return: "pointer", arguments: [] },
  bind: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  flock: { return: "i32", arguments: ["i32", "i32"] },
  ioctl: { return: "i32", arguments: ["i32", "u64", "pointer"] },
  listen: { return: "i32", arguments: ["i32", "i32"] },
  setns: { return: "i32", arguments: ["i32", "i32"] },
  setrlimit: { return: "i32", arguments: ["i32", "pointer"] },
  socket: { return: "i32", arguments: ["i32", "i32", "i32"] },
});

// Resolved once: a call between the failing one and the reading of errno could overwrite it.
const errnoAddress = libc.__errno_location();

/** Takes the exclusive lock of an open file, without waiting. False when somebody else holds it. */
export function tryFlock(fd: number): boolean {
  const LOCK_EX = 2;
  const LOCK_NB = 4;
  if (libc.flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = getInt32(errnoAddress);
  if (errno === constants.errno.EWOULDBLOCK) return false;
  throw failure("flock", errno);
}

/**
 * A listening unix socket that nobody accepts from yet, to be handed to a child process. A client can connect at
 * once and is served when the child gets to it, so nobody has to wait for the socket to appear.
 */
export function listenUnix(path: string): number {
  const AF_UNIX = 1;
  const SOCK_STREAM = 1;
  const SOCK_CLOEXEC = 0o2000000;
  const name = Buffer.from(path);
  // sun_path has 108 bytes with the closing zero (unix(7)).
  if (name.length > 107) {
    throw new SandboxError(
      "invalid_argument",
      `the socket path ${path} is longer than Linux allows (107 bytes): choose a shorter data directory`,
      undefined,
    );
  }
  const fd = checked("socket", libc.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  try {
    const address = Buffer.alloc(2 + name.length + 1);
    address.writeUInt16LE(AF_UNIX, 0);
    name.copy(address, 2);
    checked("bind", libc.bind(fd, address, address.length));
    checked("listen", libc.listen(fd, 4));
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/**
 * Runs `work` with the calling thread in the network namespace `file`, for example `/run/netns/a`. Only what happens
 * synchronously counts: files opened and processes spawned there belong to the namespace.
 */
export function inNetworkNamespace<Result>(file: string, work: () => Result): Result {
  const CLONE_NEWNET = 0x4000_0000;
  // The calling thread's own entry: /proc/self is the main thread's.
  const home = openSync("/proc/thread-self/ns/net", "r");
  try {
    const there = openSync(file, "r");
    try {
      checked("setns", libc.setns(there, CLONE_NEWNET));
    } finally {
      closeSync(there);
    }
    try {
      return work();
    } finally {
      if (libc.setns(home, CLONE_NEWNET) !== 0) {
        // Everything that this process did from now on would happen in a sandbox's network.
        process.abort();
      }
    }
  } finally {
    closeSync(home);
  }
}

/** Makes the TAP device `name` in the current network namespace. It lasts as long as the returned descriptor is open. */
export function openTap(name: string): number {
  // linux/if_tun.h; IFF_NO_PI: frames without a header of the driver's own; IFF_VNET_HDR: checksum and size offloads.
  const TUNSETIFF = 0x400454can;
  const IFF_TAP = 0x0002;
  const IFF_NO_PI = 0x1000;
  const IFF_VNET_HDR = 0x4000;
  const fd = openSync("/dev/net/tun", "r+");
  try {
    const request = Buffer.alloc(40);
    request.write(name, 0, 15, "ascii");
    request.writeUInt16LE(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, 16);
    checked("TUNSETIFF", libc.ioctl(fd, TUNSETIFF, request));
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** From now on this process and what it starts leave no core dump: machines hold their guests' memory. */
export function forbidCoreDumps(): void {
  const RLIMIT_CORE = 4;
  const limit = Buffer.alloc(16);
  checked("setrlimit", libc.setrlimit(RLIMIT_CORE, limit));
}

/** Whether the kernel's KVM can create a machine. That it then runs one is a question of the processor. */
export function canCreateKvmMachine(): boolean {
  const KVM_CREATE_VM = 0xae01n;
  let fd: number;
  try {
    fd = openSync("/dev/kvm", "r+");
  } catch {
    return false;
  }
  try {
    const machine = libc.ioctl(fd, KVM_CREATE_VM, null);
    if (machine < 0) return false;
    closeSync(machine);
    return true;
  } finally {
    closeSync(fd);
  }
}

function checked(call: string, result: number): number {
  if (result < 0) throw failure(call, getInt32(errnoAddress));
  return result;
}

function failure(call: string, errno: number): SandboxError {
  const name = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
  return new SandboxError("unavailable", `${call}: ${name}`, undefined);
}
