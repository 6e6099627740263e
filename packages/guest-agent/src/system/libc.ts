import { constants } from "node:os";
import { dlopen, getInt32, getRawPointer } from "node:ffi";

// The system calls that Node does not offer. `node:ffi` is experimental in Node 26, which the agent brings along;
// this is its only file that uses it. All of them are synchronous.
const { functions: libc } = dlopen("libc.so.6", {
  __errno_location: { return: "pointer", arguments: [] },
  clock_settime: { return: "i32", arguments: ["i32", "pointer"] },
  ioctl: { return: "i32", arguments: ["i32", "u64", "pointer"] },
  kill: { return: "i32", arguments: ["i32", "i32"] },
  pipe2: { return: "i32", arguments: ["pointer", "i32"] },
  posix_spawn: { return: "i32", arguments: ["pointer", "pointer", "pointer", "pointer", "pointer", "pointer"] },
  posix_spawn_file_actions_addchdir_np: { return: "i32", arguments: ["pointer", "pointer"] },
  posix_spawn_file_actions_adddup2: { return: "i32", arguments: ["pointer", "i32", "i32"] },
  posix_spawn_file_actions_destroy: { return: "i32", arguments: ["pointer"] },
  posix_spawn_file_actions_init: { return: "i32", arguments: ["pointer"] },
  posix_spawnattr_init: { return: "i32", arguments: ["pointer"] },
  posix_spawnattr_setflags: { return: "i32", arguments: ["pointer", "i16"] },
  posix_spawnattr_setsigdefault: { return: "i32", arguments: ["pointer", "pointer"] },
  posix_spawnattr_setsigmask: { return: "i32", arguments: ["pointer", "pointer"] },
  reboot: { return: "i32", arguments: ["i32"] },
  sethostname: { return: "i32", arguments: ["pointer", "u64"] },
  sync: { return: "void", arguments: [] },
  syscall: { return: "i64", arguments: ["i64", "i64", "i64", "i64"] },
  waitpid: { return: "i32", arguments: ["i32", "pointer", "i32"] },
});

// Resolved once: a call between the failing one and the reading of errno could overwrite it.
const errnoAddress = libc.__errno_location();

/** A system call that failed, with Node's name for the reason in `code`. */
export class SystemError extends Error {
  readonly code: string;

  constructor(call: string, errno: number) {
    const code = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
    super(`${call}: ${code}`);
    this.code = code;
  }
}

function checked(call: string, result: number): number {
  if (result < 0) throw new SystemError(call, getInt32(errnoAddress));
  return result;
}

/** Both ends of a pipe that no child inherits by accident. */
export function pipe(): { readonly read: number; readonly write: number } {
  const O_CLOEXEC = 0o2000000;
  const fds = Buffer.alloc(8);
  checked("pipe2", libc.pipe2(fds, O_CLOEXEC));
  return { read: fds.readInt32LE(0), write: fds.readInt32LE(4) };
}

/** Bytes that a pipe holds for its reader. */
export function bytesInPipe(fd: number): number {
  const FIONREAD = 0x541bn;
  const count = Buffer.alloc(4);
  checked("FIONREAD", libc.ioctl(fd, FIONREAD, count));
  return count.readInt32LE(0);
}

export interface SpawnRequest {
  /** The program's file. */
  readonly file: string;
  readonly argv: readonly string[];
  /** As `NAME=value`. */
  readonly env: readonly string[];
  readonly cwd: string;
  /** What becomes descriptors 0, 1 and 2. */
  readonly stdio: readonly [number, number, number];
  /** Absent: this process's own. */
  readonly user?: { readonly uid: number; readonly gid: number; readonly groups: readonly number[] };
}

// The sizes of glibc's types on x86-64 (spawn.h, bits/types/__sigset_t.h).
const attributesBytes = 336;
const fileActionsBytes = 80;
const signalSetBytes = 128;

/** Every child: a session and group of its own, no signal ignored or blocked that this process ignores or blocks. */
const attributes = makeAttributes();

function makeAttributes(): Buffer {
  const POSIX_SPAWN_SETSIGDEF = 0x04;
  const POSIX_SPAWN_SETSIGMASK = 0x08;
  const POSIX_SPAWN_SETSID = 0x80;
  const bytes = Buffer.alloc(attributesBytes);
  libc.posix_spawnattr_init(bytes);
  libc.posix_spawnattr_setflags(bytes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
  libc.posix_spawnattr_setsigdefault(bytes, Buffer.alloc(signalSetBytes, 0xff));
  libc.posix_spawnattr_setsigmask(bytes, Buffer.alloc(signalSetBytes));
  return bytes;
}

/** Starts a process without forking this one and returns its id. @throws SystemError */
export function posixSpawn(request: SpawnRequest): number {
  const pid = Buffer.alloc(4);
  const actions = Buffer.alloc(fileActionsBytes);
  libc.posix_spawn_file_actions_init(actions);
  try {
    for (const [target, fd] of request.stdio.entries()) libc.posix_spawn_file_actions_adddup2(actions, fd, target);
    libc.posix_spawn_file_actions_addchdir_np(actions, cString(request.cwd));
    const argv = stringTable(request.argv);
    const env = stringTable(request.env);
    const file = cString(request.file);
    const errno = asUser(request.user, () => libc.posix_spawn(pid, file, actions, attributes, argv.table, env.table));
    if (errno !== 0) throw new SystemError("posix_spawn", errno);
    return pid.readInt32LE(0);
  } finally {
    libc.posix_spawn_file_actions_destroy(actions);
  }
}

/**
 * Runs `work` with the credentials of `user` on this thread alone: raw system calls, which glibc does not pass on to
 * the other threads. The saved ids stay root's, which is the way back; a program that is executed loses them.
 */
function asUser<Result>(user: SpawnRequest["user"], work: () => Result): Result {
  if (user === undefined) return work();
  const SYS_setgroups = 116n;
  const SYS_setresuid = 117n;
  const SYS_setresgid = 119n;
  const groups = Buffer.alloc(4 * Math.max(1, user.groups.length));
  for (const [index, group] of user.groups.entries()) groups.writeUInt32LE(group, 4 * index);
  const call = (number: bigint, a: bigint, b: bigint, c: bigint): void => {
    if (libc.syscall(number, a, b, c) !== 0n) {
      // Going on as somebody else would be worse than being started again.
      process.abort();
    }
  };
  const [uid, gid] = [BigInt(user.uid), BigInt(user.gid)];
  call(SYS_setgroups, BigInt(user.groups.length), getRawPointer(groups), 0n);
  call(SYS_setresgid, gid, gid, 0n);
  call(SYS_setresuid, uid, uid, 0n);
  try {
    return work();
  } finally {
    call(SYS_setresuid, 0n, 0n, 0n);
    call(SYS_setresgid, 0n, 0n, 0n);
    call(SYS_setgroups, 0n, 0n, 0n);
  }
}

/** How a child ended, or undefined while it runs. */
export function childStatus(pid: number): { readonly exitCode: number; readonly signal: number } | undefined {
  const WNOHANG = 1;
  const status = Buffer.alloc(4);
  if (checked("waitpid", libc.waitpid(pid, status, WNOHANG)) === 0) return undefined;
  const word = status.readInt32LE(0);
  // WTERMSIG and WEXITSTATUS of sys/wait.h.
  return { exitCode: (word >> 8) & 0xff, signal: word & 0x7f };
}

/** A signal to every process of a group. A group that has ended already needs none. */
export function killGroup(group: number, signal: number): void {
  if (libc.kill(-group, signal) === 0) return;
  const errno = getInt32(errnoAddress);
  if (errno !== constants.errno.ESRCH) throw new SystemError("kill", errno);
}

export function setClock(unixNanos: bigint): void {
  const CLOCK_REALTIME = 0;
  const time = Buffer.alloc(16);
  time.writeBigInt64LE(unixNanos / 1_000_000_000n, 0);
  time.writeBigInt64LE(unixNanos % 1_000_000_000n, 8);
  checked("clock_settime", libc.clock_settime(CLOCK_REALTIME, time));
}

export function setHostName(name: string): void {
  const bytes = Buffer.from(name);
  checked("sethostname", libc.sethostname(bytes, BigInt(bytes.length)));
}

/** Adds bytes to the kernel's entropy, credits them in full, and makes the generator use them at once. */
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

export function syncFileSystems(): void {
  libc.sync();
}

/** Does not return when it works. */
export function powerOff(): void {
  const RB_POWER_OFF = 0x4321fedc;
  checked("reboot", libc.reboot(RB_POWER_OFF));
}

function cString(text: string): Buffer {
  return Buffer.from(`${text}\0`);
}

/** A null-terminated array of pointers to strings; `data` must live as long as it is used. */
function stringTable(strings: readonly string[]): { readonly table: Buffer; readonly data: Buffer } {
  const parts = strings.map(cString);
  const data = Buffer.concat(parts.length === 0 ? [Buffer.alloc(1)] : parts);
  const table = Buffer.alloc(8 * (strings.length + 1));
  let address = getRawPointer(data);
  for (const [index, part] of parts.entries()) {
    table.writeBigUInt64LE(address, 8 * index);
    address += BigInt(part.length);
  }
  return { table, data };
}
