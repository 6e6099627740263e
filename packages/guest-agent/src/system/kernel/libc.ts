import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { dlopen, getInt32, getRawPointer } from "node:ffi";
import { lastPrivilegedPort } from "@opensandbox/wire/guest/vsock.ts";
import type { Credentials } from "#system/users.ts";

// System calls that Node does not offer. `node:ffi` is experimental in Node 26, so only this file of the agent uses it,
// and the agent brings its own Node. All calls are synchronous.
const { functions: libc } = dlopen("libc.so.6", {
  __errno_location: { return: "pointer", arguments: [] },
  bind: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  clock_gettime: { return: "i32", arguments: ["i32", "pointer"] },
  clock_settime: { return: "i32", arguments: ["i32", "pointer"] },
  close: { return: "i32", arguments: ["i32"] },
  connect: { return: "i32", arguments: ["i32", "pointer", "u32"] },
  dup3: { return: "i32", arguments: ["i32", "i32", "i32"] },
  getpeername: { return: "i32", arguments: ["i32", "pointer", "pointer"] },
  ioctl: { return: "i32", arguments: ["i32", "u64", "pointer"] },
  listen: { return: "i32", arguments: ["i32", "i32"] },
  mount: { return: "i32", arguments: ["pointer", "pointer", "pointer", "u64", "pointer"] },
  posix_spawn_file_actions_addchdir_np: { return: "i32", arguments: ["pointer", "pointer"] },
  posix_spawn_file_actions_addopen: { return: "i32", arguments: ["pointer", "i32", "pointer", "i32", "u32"] },
  posix_spawn_file_actions_adddup2: { return: "i32", arguments: ["pointer", "i32", "i32"] },
  posix_spawn_file_actions_destroy: { return: "i32", arguments: ["pointer"] },
  posix_spawn_file_actions_init: { return: "i32", arguments: ["pointer"] },
  posix_spawnattr_init: { return: "i32", arguments: ["pointer"] },
  posix_spawnattr_setflags: { return: "i32", arguments: ["pointer", "i16"] },
  posix_spawnattr_setsigdefault: { return: "i32", arguments: ["pointer", "pointer"] },
  posix_spawnattr_setsigmask: { return: "i32", arguments: ["pointer", "pointer"] },
  setsockopt: { return: "i32", arguments: ["i32", "i32", "i32", "pointer", "u32"] },
  setrlimit: { return: "i32", arguments: ["i32", "pointer"] },
  sethostname: { return: "i32", arguments: ["pointer", "u64"] },
  socket: { return: "i32", arguments: ["i32", "i32", "i32"] },
  socketpair: { return: "i32", arguments: ["i32", "i32", "i32", "pointer"] },
  syscall: { return: "i64", arguments: ["i64", "i64", "i64", "i64"] },
  waitid: { return: "i32", arguments: ["i32", "u32", "pointer", "i32"] },
});

// Calls of every command take addresses as numbers: without a JIT a Buffer as an argument costs far more than the call.
const { functions: lean } = dlopen("libc.so.6", {
  fcntl: { return: "i32", arguments: ["i32", "i32", "i32"] },
  ioctl: { return: "i32", arguments: ["i32", "i32", "u64"] },
  pipe2: { return: "i32", arguments: ["u64", "i32"] },
  posix_spawnp: { return: "i32", arguments: ["u64", "u64", "u64", "u64", "u64", "u64"] },
  syscall: { return: "i32", arguments: ["i32", "i32", "i32", "i32"] },
  waitpid: { return: "i32", arguments: ["i32", "u64", "i32"] },
});

/** Receives small results of the kernel. Larger than the buffers that V8 may move. */
const answer = Buffer.alloc(128);
const answerAddress = getRawPointer(answer);

// Resolved once: a call between the failing one and the read of errno could overwrite it.
const errnoAddress = libc.__errno_location();

const O_CLOEXEC = 0o2000000;
const O_NONBLOCK = 0o4000;

/** The error of a failed system call, as Node reports its own. */
export function systemError(call: string, errno: number): NodeJS.ErrnoException {
  const code = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
  return Object.assign(new Error(`${call}: ${code}`), { code, errno: -errno, syscall: call });
}

function checked(call: string, result: number): number {
  if (result < 0) throw systemError(call, getInt32(errnoAddress));
  return result;
}

/** Sets how many files this process, and what it starts, may have open (getrlimit(2)). Raising `hard` takes root. */
export function limitOpenFiles(soft: number, hard: number): void {
  const RLIMIT_NOFILE = 7;
  setLimits(RLIMIT_NOFILE, BigInt(soft), BigInt(hard));
}

/** Lifts the limit of processes for each user (getrlimit(2)): cgroups bound the processes of commands. Takes root. */
export function liftProcessLimit(): void {
  const RLIMIT_NPROC = 6;
  const RLIM_INFINITY = 2n ** 64n - 1n;
  setLimits(RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY);
}

function setLimits(resource: number, soft: bigint, hard: bigint): void {
  const limits = Buffer.alloc(16);
  limits.writeBigUInt64LE(soft, 0);
  limits.writeBigUInt64LE(hard, 8);
  checked("setrlimit", libc.setrlimit(resource, limits));
}

/** Opens a pipe and returns both ends. No child inherits them unless they are passed to it. */
export interface Pipe {
  readonly read: number;
  readonly write: number;
}

export function openPipe(): Pipe {
  checked("pipe2", lean.pipe2(answerAddress, O_CLOEXEC));
  return { read: answer.readInt32LE(0), write: answer.readInt32LE(4) };
}

/** A pipe whose read end does not block. */
export function openNonBlockingPipe(): Pipe {
  const F_SETFL = 4;
  const pipe = openPipe();
  checked("fcntl", lean.fcntl(pipe.read, F_SETFL, O_NONBLOCK));
  return pipe;
}

/** Opens a bidirectional byte stream and returns both ends. */
export function openSocketPair(): readonly [number, number] {
  const fds = Buffer.alloc(8);
  checked("socketpair", libc.socketpair(AF_UNIX, SOCK_STREAM | O_CLOEXEC, 0, fds));
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

/** Another descriptor of the same file. */
export function duplicateDescriptor(fd: number): number {
  const F_DUPFD_CLOEXEC = 1030;
  return checked("fcntl", lean.fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

/**
 * Chooses whether the kernel signals this process (SIGIO) when an open device, which reads never wait for, changes its
 * state.
 */
export function signalChanges(fd: number, on: boolean): void {
  const F_SETFL = 4;
  const F_SETOWN = 8;
  const O_ASYNC = 0o20000;
  if (on) checked("fcntl", lean.fcntl(fd, F_SETOWN, process.pid));
  checked("fcntl", lean.fcntl(fd, F_SETFL, on ? O_NONBLOCK | O_ASYNC : O_NONBLOCK));
}

const AF_UNIX = 1;
const AF_VSOCK = 40;
const SOCK_STREAM = 1;

/**
 * A descriptor for `net.Server.listen({ fd })`, and what makes it a listener at `port` of every vsock address of this
 * machine, which has to follow in the same turn of the event loop: Node asks a descriptor for its kind and knows no vsock,
 * but a server accepts from every kind by the same system calls. Undefined: the kernel has no vsock.
 */
export function openVsockListener(port: number): { readonly descriptor: number; become(): void } | undefined {
  const listener = openVsock();
  if (listener === undefined) return undefined;
  const name = vsockAddress(anyCid, port);
  checked(`bind to vsock port ${port}`, libc.bind(listener, name, name.length));
  checked("listen", libc.listen(listener, 16));
  const descriptor = checked("socket", libc.socket(AF_UNIX, SOCK_STREAM | O_CLOEXEC | O_NONBLOCK, 0));
  // A name without a path: the kernel chooses one that is not a file.
  const unnamed = Buffer.alloc(2);
  unnamed.writeUInt16LE(AF_UNIX, 0);
  checked("bind", libc.bind(descriptor, unnamed, unnamed.length));
  return { descriptor, become: () => moveDescriptor(listener, descriptor) };
}

/**
 * Starts a vsock connection to a port of the host, from a port that only root of this machine can have. The kernel gives up
 * after `timeoutMs`. Undefined: the kernel has no vsock, or the machine no device for it.
 */
export function connectToHost(port: number, timeoutMs: number): number | undefined {
  const descriptor = openVsock();
  if (descriptor === undefined) return undefined;
  try {
    bindPrivileged(descriptor);
    const SO_VM_SOCKETS_CONNECT_TIMEOUT = 6;
    // struct timeval
    const timeout = Buffer.alloc(16);
    timeout.writeBigInt64LE(BigInt(Math.floor(timeoutMs / 1000)), 0);
    timeout.writeBigInt64LE(BigInt((timeoutMs % 1000) * 1000), 8);
    const set = libc.setsockopt(descriptor, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, timeout, timeout.length);
    checked("SO_VM_SOCKETS_CONNECT_TIMEOUT", set);
    const name = vsockAddress(hostCid, port);
    if (libc.connect(descriptor, name, name.length) === 0) return descriptor;
    const errno = getInt32(errnoAddress);
    if (errno === constants.errno.EINPROGRESS) return descriptor;
    if (errno !== constants.errno.ENODEV) throw systemError(`connect to vsock port ${port} of the host`, errno);
    libc.close(descriptor);
    return undefined;
  } catch (error) {
    libc.close(descriptor);
    throw error;
  }
}

/** The CID of the host, for every guest. */
export const hostCid = 2;

const anyCid = 0xffff_ffff;

/** Undefined: the kernel has no vsock. */
function openVsock(): number | undefined {
  const descriptor = libc.socket(AF_VSOCK, SOCK_STREAM | O_CLOEXEC | O_NONBLOCK, 0);
  if (descriptor < 0 && getInt32(errnoAddress) === constants.errno.EAFNOSUPPORT) return undefined;
  return checked("socket", descriptor);
}

/** Binds to any free privileged port. @throws EADDRINUSE: each is in use */
function bindPrivileged(descriptor: number): void {
  const first = Math.floor(Math.random() * lastPrivilegedPort);
  for (let step = 1; ; step += 1) {
    const name = vsockAddress(anyCid, 1 + ((first + step) % lastPrivilegedPort));
    if (libc.bind(descriptor, name, name.length) === 0) return;
    const errno = getInt32(errnoAddress);
    if (errno !== constants.errno.EADDRINUSE || step === lastPrivilegedPort) throw systemError("bind to vsock", errno);
  }
}

/** struct sockaddr_vm: family, a reserved field, port and CID. */
function vsockAddress(cid: number, port: number): Buffer {
  const name = Buffer.alloc(16);
  name.writeUInt16LE(AF_VSOCK, 0);
  name.writeUInt32LE(port, 4);
  name.writeUInt32LE(cid, 8);
  return name;
}

/** The CID of the other end of a vsock connection; undefined when it has been reset. */
export function vsockPeer(fd: number): number | undefined {
  const name = Buffer.alloc(16);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(name.length);
  return libc.getpeername(fd, name, length) === 0 ? name.readUInt32LE(8) : undefined;
}

/** For descriptors that Node did not open. */
export function closeDescriptor(fd: number): void {
  libc.close(fd);
}

/** Makes `target`, which may be open, refer to the file of `fd`, and closes `fd`. */
export function moveDescriptor(fd: number, target: number): void {
  checked("dup3", libc.dup3(fd, target, O_CLOEXEC));
  libc.close(fd);
}

/** Bytes that a pipe holds for its reader. */
export function bytesInPipe(fd: number): number {
  const FIONREAD = 0x541b;
  checked("FIONREAD", lean.ioctl(fd, FIONREAD, answerAddress));
  return answer.readInt32LE(0);
}

/** Allows the other end of a new terminal to be opened. */
export function unlockTerminal(descriptor: number): void {
  const TIOCSPTLCK = 0x40045431n;
  checked("TIOCSPTLCK", libc.ioctl(descriptor, TIOCSPTLCK, Buffer.alloc(4)));
}

/** The number in the name of the other end. */
export function terminalNumber(descriptor: number): number {
  const TIOCGPTN = 0x80045430n;
  const number = Buffer.alloc(4);
  checked("TIOCGPTN", libc.ioctl(descriptor, TIOCGPTN, number));
  return number.readUInt32LE(0);
}

/** Sets the size; the kernel signals the foreground programs with SIGWINCH. */
export function setWindowSize(descriptor: number, { columns, rows }: { columns: number; rows: number }): void {
  const TIOCSWINSZ = 0x5414n;
  // struct winsize: rows, columns, and two sizes in pixels, which stay 0.
  const size = Buffer.alloc(8);
  size.writeUInt16LE(rows, 0);
  size.writeUInt16LE(columns, 2);
  checked("TIOCSWINSZ", libc.ioctl(descriptor, TIOCSWINSZ, size));
}

/** Makes line editing erase characters instead of bytes. */
export function setUtf8Input(descriptor: number): void {
  const TCGETS = 0x5401n;
  const TCSETS = 0x5402n;
  const IUTF8 = 0o40000;
  // The kernel's struct termios: four words of flags, c_iflag first, then 20 more bytes.
  const termios = Buffer.alloc(36);
  checked("TCGETS", libc.ioctl(descriptor, TCGETS, termios));
  termios.writeUInt32LE((termios.readUInt32LE(0) | IUTF8) >>> 0, 0);
  checked("TCSETS", libc.ioctl(descriptor, TCSETS, termios));
}

/** A null-terminated array of pointers to strings; `bytes` must live as long as the address is used. */
export interface StringTable {
  readonly address: bigint;
  readonly bytes: Buffer;
}

/** One piece of memory with the strings behind the pointers: without a JIT each Buffer costs more than its content. */
export function stringTable(strings: readonly string[]): StringTable {
  // UTF-8 takes at most three bytes per unit of a string. Larger than the buffers that V8 may move.
  const most = strings.reduce((sum, text) => sum + 8 + 3 * text.length + 1, 128);
  const bytes = Buffer.alloc(most);
  const pointers = new Uint32Array(bytes.buffer, bytes.byteOffset, 2 * strings.length);
  const address = getRawPointer(bytes);
  // Addresses of programs have 47 bits, which numbers hold exactly.
  const start = Number(address);
  let at = 8 * (strings.length + 1);
  for (let index = 0; index < strings.length; index += 1) {
    // The assignment keeps the lower 32 bits.
    pointers[2 * index] = start + at;
    pointers[2 * index + 1] = Math.floor((start + at) / 2 ** 32);
    at += bytes.write(strings[index]!, at) + 1;
  }
  return { address, bytes };
}

/** Descriptors 0, 1 and 2: open ones, or the path of a terminal, which also becomes the controlling terminal. */
export type Stdio = readonly [number, number, number] | { readonly terminal: string };

export interface PosixSpawn {
  /** The first argument names the program: a path, or without a slash a name to find in `searchPath`. */
  readonly arguments: StringTable;
  /** Directories separated by colons, as execvp(3) takes them. */
  readonly searchPath: string;
  readonly environment: StringTable;
  readonly cwd: string;
  readonly stdio: Stdio;
  /** Descriptor of the cgroup that the process starts in. */
  readonly cgroup: number | undefined;
}

/**
 * Starts a process without forking this one: in its own session and group, with no signal ignored or blocked, as the real
 * user of this thread. Returns its id, or the negated errno.
 */
export function posixSpawn(request: PosixSpawn): number {
  search(request.searchPath);
  const errno = lean.posix_spawnp(
    answerAddress,
    request.arguments.bytes.readBigUInt64LE(0),
    fileActions(request),
    attributesOf(request.cgroup),
    request.arguments.address,
    request.environment.address,
  );
  return errno === 0 ? answer.readInt32LE(0) : -errno;
}

let presentSearchPath: string | undefined;

/** Sets PATH of this process, where the C library searches for programs. Nothing else in this process reads it. */
function search(path: string): void {
  if (path === presentSearchPath) return;
  process.env["PATH"] = path;
  presentSearchPath = path;
}

/** A structure of the C library, with its address. */
interface Structure {
  readonly bytes: Buffer;
  readonly address: bigint;
}

function structureOf(bytes: Buffer): Structure {
  return { bytes, address: getRawPointer(bytes) };
}

/** Cached: descriptors are reused, so most commands need the actions of an earlier one. */
const knownActions = new Map<string, Structure>();
const maxKnownActions = 64;

function fileActions({ stdio, cwd }: PosixSpawn): bigint {
  const key = `${"terminal" in stdio ? stdio.terminal : stdio.join()} ${cwd}`;
  const known = knownActions.get(key);
  if (known !== undefined) return known.address;
  if (knownActions.size >= maxKnownActions) {
    for (const { bytes } of knownActions.values()) libc.posix_spawn_file_actions_destroy(bytes);
    knownActions.clear();
  }
  const actions = Buffer.alloc(fileActionsBytes);
  libc.posix_spawn_file_actions_init(actions);
  addStdio(actions, stdio);
  libc.posix_spawn_file_actions_addchdir_np(actions, cString(cwd));
  const structure = structureOf(actions);
  knownActions.set(key, structure);
  return structure.address;
}

function addStdio(actions: Buffer, stdio: Stdio): void {
  if (!("terminal" in stdio)) {
    for (const [target, fd] of stdio.entries()) libc.posix_spawn_file_actions_adddup2(actions, fd, target);
    return;
  }
  const O_RDWR = 2;
  // The leader of a new session has no terminal yet, so the first one it opens becomes its controlling terminal.
  libc.posix_spawn_file_actions_addopen(actions, 0, cString(stdio.terminal), O_RDWR, 0);
  libc.posix_spawn_file_actions_adddup2(actions, 0, 1);
  libc.posix_spawn_file_actions_adddup2(actions, 0, 2);
}

// The sizes of glibc's types on x86-64 (spawn.h, bits/types/__sigset_t.h).
const attributesBytes = 336;
const fileActionsBytes = 80;
const signalSetBytes = 128;

const knownAttributes = new Map<number | undefined, Structure>();

function attributesOf(cgroup: number | undefined): bigint {
  const attributes = knownAttributes.get(cgroup) ?? structureOf(makeAttributes(cgroup));
  knownAttributes.set(cgroup, attributes);
  return attributes.address;
}

function makeAttributes(cgroup: number | undefined): Buffer {
  const POSIX_SPAWN_RESETIDS = 0x01;
  const POSIX_SPAWN_SETSIGDEF = 0x04;
  const POSIX_SPAWN_SETSIGMASK = 0x08;
  const POSIX_SPAWN_SETSID = 0x80;
  const POSIX_SPAWN_SETCGROUP = 0x100;
  const flags = POSIX_SPAWN_RESETIDS | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID;
  const bytes = Buffer.alloc(attributesBytes);
  libc.posix_spawnattr_init(bytes);
  libc.posix_spawnattr_setflags(bytes, cgroup === undefined ? flags : flags | POSIX_SPAWN_SETCGROUP);
  libc.posix_spawnattr_setsigdefault(bytes, ignoredSignals);
  libc.posix_spawnattr_setsigmask(bytes, noSignals);
  if (cgroup !== undefined) setCgroup(bytes, cgroup);
  return bytes;
}

const noSignals = Buffer.alloc(signalSetBytes);
/** Signals with a handler are reset in any case; each further one would cost a system call. */
const ignoredSignals = Buffer.alloc(signalSetBytes);
ignoredSignals.writeBigUInt64LE(signalsIgnored());

/** Signals that this process ignores: SIGPIPE because of Node, and perhaps others because of its parent. */
function signalsIgnored(): bigint {
  const [, mask = "0"] = /^SigIgn:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "latin1")) ?? [];
  return BigInt(`0x${mask}`);
}

let setCgroupOfAttributes: ((attributes: Buffer, cgroup: number) => number) | undefined;

// glibc has this function since 2.39. The agent disk has that version, the host of a fake machine may not.
function setCgroup(attributes: Buffer, cgroup: number): void {
  setCgroupOfAttributes ??= dlopen("libc.so.6", {
    posix_spawnattr_setcgroup_np: { return: "i32", arguments: ["pointer", "i32"] },
  }).functions.posix_spawnattr_setcgroup_np;
  setCgroupOfAttributes(attributes, cgroup);
}

/**
 * Runs `work` with the real user and groups of another user, on this thread only: raw system calls, which glibc does not
 * apply to the other threads. The effective ids stay root's, which is the way back.
 */
export function withRealUser<Result>({ uid, gid, groups }: Credentials, work: () => Result): Result {
  takeGroups(gid, groups);
  setRealUser(uid);
  try {
    return work();
  } finally {
    // The real user changes back at once, because processes of the real user may signal this one.
    setRealUser(0);
  }
}

let presentGroups = "";

/** The groups stay set: root does not need them, and the next command most likely has the same user. */
function takeGroups(gid: number, groups: readonly number[]): void {
  const SYS_setgroups = 116n;
  const SYS_setresgid = 119;
  const wanted = `${gid} ${groups.join()}`;
  if (wanted === presentGroups) return;
  const list = Buffer.alloc(4 * Math.max(1, groups.length));
  for (const [index, group] of groups.entries()) list.writeUInt32LE(group, 4 * index);
  // Running on as another user would be worse than a restart.
  if (libc.syscall(SYS_setgroups, BigInt(groups.length), getRawPointer(list), 0n) !== 0n) process.abort();
  if (lean.syscall(SYS_setresgid, gid | 0, unchanged, unchanged) !== 0) process.abort();
  presentGroups = wanted;
}

const unchanged = -1;

function setRealUser(uid: number): void {
  const SYS_setresuid = 117;
  // Ids above 2^31 are negative to a function that takes signed numbers.
  if (lean.syscall(SYS_setresuid, uid | 0, unchanged, unchanged) !== 0) process.abort();
}

/** A child that has ended and waits for its status to be collected; undefined when there is none. */
export function endedChild(): number | undefined {
  const P_ALL = 0;
  const WNOHANG = 1;
  const WEXITED = 4;
  const WNOWAIT = 0x0100_0000;
  // siginfo_t: si_pid is at offset 16 and stays zero when there is no such child.
  const info = Buffer.alloc(128);
  // A failure means that there are no children.
  if (libc.waitid(P_ALL, 0, info, WEXITED | WNOHANG | WNOWAIT) !== 0) return undefined;
  return info.readInt32LE(16) || undefined;
}

/** The status of a child as waitpid(2) reports it, or undefined while it runs. */
export function statusOfEnded(pid: number): number | undefined {
  const WNOHANG = 1;
  return checked("waitpid", lean.waitpid(pid, answerAddress, WNOHANG)) === 0 ? undefined : answer.readInt32LE(0);
}

const CLOCK_REALTIME = 0;

/** Nanoseconds since 1970. */
export function readClock(): bigint {
  const time = Buffer.alloc(16);
  checked("clock_gettime", libc.clock_gettime(CLOCK_REALTIME, time));
  return time.readBigInt64LE(0) * 1_000_000_000n + time.readBigInt64LE(8);
}

export function writeClock(unixNanos: bigint): void {
  const time = Buffer.alloc(16);
  time.writeBigInt64LE(unixNanos / 1_000_000_000n, 0);
  time.writeBigInt64LE(unixNanos % 1_000_000_000n, 8);
  checked("clock_settime", libc.clock_settime(CLOCK_REALTIME, time));
}

export function setHostname(name: string): void {
  const bytes = Buffer.from(name);
  checked("sethostname", libc.sethostname(bytes, BigInt(bytes.length)));
}

/** @throws ENODEV: there is no such network device */
export function setDeviceAddress(device: string, address: Uint8Array): void {
  const AF_INET = 2;
  const SOCK_DGRAM = 2;
  const ARPHRD_ETHER = 1;
  const SIOCSIFHWADDR = 0x8924n;
  // struct ifreq: the name in 16 bytes, then a struct sockaddr.
  const request = Buffer.alloc(40);
  request.write(device, 0, 15, "latin1");
  request.writeUInt16LE(ARPHRD_ETHER, 16);
  request.set(address, 18);
  deviceSocket ??= checked("socket", libc.socket(AF_INET, SOCK_DGRAM | O_CLOEXEC, 0));
  checked("SIOCSIFHWADDR", libc.ioctl(deviceSocket, SIOCSIFHWADDR, request));
}

/** The socket stays open: opening one for each address would be most of the cost. */
let deviceSocket: number | undefined;

/** Adds bytes to the kernel's entropy with full credit, and makes the generator use them at once. */
export function addEntropy(randomDevice: number, bytes: Uint8Array): void {
  // linux/random.h
  const RNDADDENTROPY = 0x40085203n;
  const RNDRESEEDCRNG = 0x5207n;
  const info = Buffer.alloc(8 + bytes.length);
  info.writeInt32LE(bytes.length * 8, 0);
  info.writeInt32LE(bytes.length, 4);
  info.set(bytes, 8);
  checked("RNDADDENTROPY", libc.ioctl(randomDevice, RNDADDENTROPY, info));
  checked("RNDRESEEDCRNG", libc.ioctl(randomDevice, RNDRESEEDCRNG, null));
}

/** Freezes the file system of an open directory. @throws EBUSY: it is frozen already */
export function freezeFileSystem(directory: number): void {
  // linux/fs.h
  const FIFREEZE = 0xc0045877n;
  checked("FIFREEZE", libc.ioctl(directory, FIFREEZE, null));
}

/** Thaws it again. @throws EINVAL: it is not frozen */
export function thawFileSystem(directory: number): void {
  const FITHAW = 0xc0045878n;
  checked("FITHAW", libc.ioctl(directory, FITHAW, null));
}

/**
 * Enlarges the mounted ext4 file system of an open directory to `blocks` of its blocks. The present size is accepted
 * too. @throws EINVAL when the file system is larger or the disk is smaller
 */
export function resizeExt4(directory: number, blocks: bigint): void {
  // fs/ext4/ext4.h in the kernel's sources: _IOW('f', 16, __u64).
  const EXT4_IOC_RESIZE_FS = 0x40086610n;
  const count = Buffer.alloc(8);
  count.writeBigUInt64LE(blocks);
  checked("EXT4_IOC_RESIZE_FS", libc.ioctl(directory, EXT4_IOC_RESIZE_FS, count));
}

/** Bind-mounts `file` over the file `at`. */
export function bindFile(file: string, at: string): void {
  const MS_BIND = 4096n;
  checked("mount", libc.mount(cString(file), cString(at), null, MS_BIND, null));
}

function cString(text: string): Buffer {
  return Buffer.from(`${text}\0`);
}
