import { constants } from "node:os";
import { closeSync, openSync, readFileSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { checked, errnoName, failure, getRawPointer, lastErrno, openLibc } from "./ffi.ts";

// System calls of the host that Node does not offer, except those of sockets, which are in sockets.ts.
const libc = openLibc({
  bind: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  chroot: { return: "i32", arguments: ["pointer"] },
  close_range: { return: "i32", arguments: ["u32", "u32", "i32"] },
  flock: { return: "i32", arguments: ["i32", "i32"] },
  getxattr: { return: "i64", arguments: ["pointer", "pointer", "pointer", "u64"] },
  ioctl: { return: "i32", arguments: ["i32", "u64", "pointer"] },
  lsetxattr: { return: "i32", arguments: ["pointer", "pointer", "pointer", "u64", "i32"] },
  lseek: { return: "i64", arguments: ["i32", "i64", "i32"] },
  process_vm_readv: { return: "i64", arguments: ["i32", "pointer", "u64", "pointer", "u64", "u64"] },
  process_vm_writev: { return: "i64", arguments: ["i32", "pointer", "u64", "pointer", "u64", "u64"] },
  listen: { return: "i32", arguments: ["i32", "i32"] },
  mkfifo: { return: "i32", arguments: ["pointer", "u32"] },
  prctl: { return: "i32", arguments: ["i32", "u64", "u64", "u64", "u64"] },
  setns: { return: "i32", arguments: ["i32", "i32"] },
  setrlimit: { return: "i32", arguments: ["i32", "pointer"] },
  socket: { return: "i32", arguments: ["i32", "i32", "i32"] },
  sync_file_range: { return: "i32", arguments: ["i32", "i64", "i64", "u32"] },
  unshare: { return: "i32", arguments: ["i32"] },
});

/** Takes the lock of an open file without waiting. False when a holder of an exclusive lock, or of any lock, prevents it. */
export function tryFlock(fd: number, kind: "exclusive" | "shared" = "exclusive"): boolean {
  const LOCK_SH = 1;
  const LOCK_EX = 2;
  const LOCK_NB = 4;
  if (libc.flock(fd, (kind === "shared" ? LOCK_SH : LOCK_EX) | LOCK_NB) === 0) return true;
  const errno = lastErrno();
  if (errno === constants.errno.EWOULDBLOCK) return false;
  throw failure("flock", errno);
}

/**
 * A listening unix socket to hand to a child process. Clients can connect before the child accepts, so no client has to
 * wait for the socket to appear.
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
      `the socket path ${path} is longer than Linux allows (107 bytes): set OPENSANDBOX_DATA_DIR to a shorter path`,
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
  return inOtherNetwork(() => {
    const there = openSync(file, "r");
    try {
      checked("setns", libc.setns(there, CLONE_NEWNET));
    } finally {
      closeSync(there);
    }
  }, work);
}

/**
 * Runs `work` with the calling thread in a new, empty network namespace, which ends with the last process that `work`
 * spawns. As with {@link inNetworkNamespace}, only what happens synchronously counts. Needs root.
 */
export function inNewNetworkNamespace<Result>(work: () => Result): Result {
  return inOtherNetwork(() => checked("unshare", libc.unshare(CLONE_NEWNET)), work);
}

const CLONE_NEWNET = 0x4000_0000;

function inOtherNetwork<Result>(enter: () => void, work: () => Result): Result {
  // The calling thread's own entry: /proc/self is the main thread's.
  const home = openSync("/proc/thread-self/ns/net", "r");
  try {
    enter();
    try {
      return work();
    } finally {
      if (libc.setns(home, CLONE_NEWNET) !== 0) {
        // Every later action of this process would happen in a sandbox's network.
        process.abort();
      }
    }
  } finally {
    closeSync(home);
  }
}

/** Makes the TAP device `name` in the current network namespace. It exists while the returned descriptor is open. */
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

/** Lets the user `uid` open the TAP device of the descriptor by its name, without a right to the network. */
export function setTapOwner(tap: number, uid: number): void {
  // linux/if_tun.h; the number itself is the argument.
  const TUNSETOWNER = 0x400454ccn;
  checked("TUNSETOWNER", libc.ioctl(tap, TUNSETOWNER, BigInt(uid)));
}

/**
 * Keeps every descriptor that is open now, except 0, 1 and 2, out of processes that this one starts from now on. Node
 * opens its own this way; those that it inherited from a shell or a service manager it would pass on.
 */
export function closeInheritedOnExec(): void {
  const CLOSE_RANGE_CLOEXEC = 4;
  checked("close_range", libc.close_range(3, 0xffff_ffff, CLOSE_RANGE_CLOEXEC));
}

/** Disables core dumps of this process and its children, since a dump of a machine contains its guest's memory. */
export function forbidCoreDumps(): void {
  const RLIMIT_CORE = 4;
  const limit = Buffer.alloc(16);
  checked("setrlimit", libc.setrlimit(RLIMIT_CORE, limit));
}

/**
 * Bounds what this process can take from the host, for good where it is not root: its address space grows by at most
 * `moreBytes`, and it writes no files.
 */
export function limitThisProcess(moreBytes: number): void {
  const RLIMIT_FSIZE = 1;
  const RLIMIT_AS = 9;
  const [pages = "0"] = readFileSync("/proc/self/statm", "utf8").split(" ");
  const pageBytes = 4096;
  for (const [resource, value] of [
    [RLIMIT_AS, Number(pages) * pageBytes + moreBytes],
    [RLIMIT_FSIZE, 0],
  ] as const) {
    const limit = Buffer.alloc(16);
    limit.writeBigUInt64LE(BigInt(value), 0);
    limit.writeBigUInt64LE(BigInt(value), 8);
    checked("setrlimit", libc.setrlimit(resource, limit));
  }
}

/** An extended attribute of a file, up to 255 bytes of text. Undefined: it has none of that name, or may not be read. */
export function readAttribute(path: string, name: string): string | undefined {
  const value = Buffer.alloc(255);
  const [file, attribute] = [path, name].map((text) => Buffer.from(`${text}\0`));
  const length = Number(libc.getxattr(file!, attribute!, value, BigInt(value.length)));
  return length < 0 ? undefined : value.toString("utf8", 0, length);
}

/** Sets an extended attribute. Of a link it is the link's own. Path and name are bytes without a closing zero. */
export function setAttribute(path: Buffer, name: Buffer, value: Buffer): void {
  const [file, attribute] = [path, name].map(withZero);
  checked(`lsetxattr ${name.toString()}`, libc.lsetxattr(file!, attribute!, value, BigInt(value.length), 0));
}

/** Makes a named pipe, which its owner may read and write. @throws an error with `code`, as Node's own do */
export function makeFifo(path: Buffer): void {
  if (libc.mkfifo(withZero(path), 0o600) === 0) return;
  const errno = lastErrno();
  throw Object.assign(new Error("mkfifo"), { errno, code: errnoName(errno) });
}

/** Makes `directory` the root of this process for good. The working directory becomes that root. Needs CAP_SYS_CHROOT. */
export function changeRoot(directory: string): void {
  checked("chroot", libc.chroot(withZero(Buffer.from(directory))));
  process.chdir("/");
}

function withZero(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(1)]);
}

/** From now on the kernel kills this process when its parent ends. A change of the user id undoes that. */
export function dieWithParent(): void {
  const PR_SET_PDEATHSIG = 1;
  checked("prctl", libc.prctl(PR_SET_PDEATHSIG, BigInt(constants.signals.SIGKILL), 0n, 0n, 0n));
}

/** The error that ends the creation of a KVM machine, such as `EACCES`. Undefined: it works. */
export function tryCreateKvmMachine(device: string): string | undefined {
  const KVM_CREATE_VM = 0xae01n;
  let fd: number;
  try {
    fd = openSync(device, "r+");
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code);
  }
  try {
    const machine = libc.ioctl(fd, KVM_CREATE_VM, null);
    if (machine < 0) return failure("KVM_CREATE_VM", lastErrno()).message;
    closeSync(machine);
    return undefined;
  } finally {
    closeSync(fd);
  }
}

/**
 * The parts of an open file that may hold something other than zeros, as pairs of the first byte and the one after the
 * last: a sparse file's holes are left out (lseek(2), SEEK_DATA). Moves the file's position.
 */
export function dataRanges(fd: number, bytes: number): readonly (readonly [start: number, end: number])[] {
  const SEEK_DATA = 3;
  const SEEK_HOLE = 4;
  const ranges: [number, number][] = [];
  for (let at = 0; at < bytes;) {
    const start = Number(libc.lseek(fd, BigInt(at), SEEK_DATA));
    if (start < 0) {
      const errno = lastErrno();
      // The rest of the file is a hole.
      if (errno === constants.errno.ENXIO) break;
      throw failure("lseek", errno);
    }
    const end = Math.min(bytes, Number(checked("lseek", libc.lseek(fd, BigInt(start), SEEK_HOLE))));
    ranges.push([start, end]);
    at = end;
  }
  return ranges;
}

/** Starts to write a part of an open file to the disk, and does not wait for the end (sync_file_range(2)). */
export function startWriteback(fd: number, offset: number, bytes: number): void {
  const SYNC_FILE_RANGE_WRITE = 2;
  checked("sync_file_range", libc.sync_file_range(fd, BigInt(offset), BigInt(bytes), SYNC_FILE_RANGE_WRITE));
}

/** Pairs of a range's first address and the address after its last byte. */
export type AddressRanges = readonly (readonly [start: number, end: number])[];

/**
 * The pages from `start` to `end` of a private file mapping that differ from the file: present pages that are not the
 * file's own, and swapped ones. `pagemap` is the open /proc/<pid>/pagemap. Undefined before Linux 6.7, which brought
 * PAGEMAP_SCAN (Documentation/admin-guide/mm/pagemap.rst).
 */
export function scanChangedPages(pagemap: number, start: number, end: number): AddressRanges | undefined {
  const PAGEMAP_SCAN = 0xc0606610n;
  const PAGE_IS_FILE = 1n << 2n;
  const PAGE_IS_PRESENT = 1n << 3n;
  const PAGE_IS_SWAPPED = 1n << 4n;
  const capacity = 8192;
  const regionBytes = 24;
  const regions = Buffer.alloc(capacity * regionBytes);
  const request = Buffer.alloc(96);
  const found: [number, number][] = [];
  for (let at = start; at < end;) {
    request.writeBigUInt64LE(96n, 0);
    request.writeBigUInt64LE(BigInt(at), 16);
    request.writeBigUInt64LE(BigInt(end), 24);
    request.writeBigUInt64LE(getRawPointer(regions), 40);
    request.writeBigUInt64LE(BigInt(capacity), 48);
    request.writeBigUInt64LE(PAGE_IS_FILE, 64);
    request.writeBigUInt64LE(PAGE_IS_FILE, 72);
    request.writeBigUInt64LE(PAGE_IS_PRESENT | PAGE_IS_SWAPPED, 80);
    // One category for all pages, so adjacent ones become one region.
    request.writeBigUInt64LE(PAGE_IS_FILE, 88);
    const count = libc.ioctl(pagemap, PAGEMAP_SCAN, request);
    if (count < 0) {
      const errno = lastErrno();
      if (errno === constants.errno.ENOTTY) return undefined;
      throw failure("PAGEMAP_SCAN", errno);
    }
    for (let index = 0; index < count; index += 1) {
      const [from, to] = [0, 8].map((offset) => Number(regions.readBigUInt64LE(index * regionBytes + offset)));
      found.push([from!, to!]);
    }
    // The kernel also reports where the scan stopped, but wrongly after a range that filled several of its buffers
    // (Linux 6.18). Regions come in order and completely, so a list that is not full is the last one.
    if (count < capacity) break;
    at = found.at(-1)?.[1] ?? end;
  }
  return found;
}

/** IOV_MAX of Linux. */
const vectorLength = 1024;

/** Copies memory of another process, range after range, into `target`, which has exactly the size of all ranges. */
export function readProcessMemory(pid: number, ranges: AddressRanges, target: Buffer): void {
  copyProcessMemory("process_vm_readv", pid, ranges, target);
}

/** Copies all of `source` into memory of another process, range after range. */
export function writeProcessMemory(pid: number, ranges: AddressRanges, source: Buffer): void {
  copyProcessMemory("process_vm_writev", pid, ranges, source);
}

function copyProcessMemory(
  call: "process_vm_readv" | "process_vm_writev",
  pid: number,
  ranges: AddressRanges,
  bytes: Buffer,
): void {
  const local = Buffer.alloc(16);
  const remote = Buffer.alloc(16 * vectorLength);
  let done = 0;
  for (let first = 0; first < ranges.length; first += vectorLength) {
    const part = ranges.slice(first, first + vectorLength);
    let length = 0;
    for (const [index, [start, end]] of part.entries()) {
      remote.writeBigUInt64LE(BigInt(start), index * 16);
      remote.writeBigUInt64LE(BigInt(end - start), index * 16 + 8);
      length += end - start;
    }
    local.writeBigUInt64LE(getRawPointer(bytes) + BigInt(done), 0);
    local.writeBigUInt64LE(BigInt(length), 8);
    const count = Number(libc[call](pid, local, 1n, remote, BigInt(part.length), 0n));
    if (count < 0) throw failure(call, lastErrno());
    // A shorter copy means an unmapped part, which a machine's memory never has.
    if (count !== length) throw new SandboxError("unavailable", `${call}: ${count} of ${length} bytes`);
    done += length;
  }
}
