/**
 * System calls of x86-64 that a machine's process never makes, by their numbers. The groups are those of QEMU's own
 * filter, and what else a process could use against its host.
 */
const denied = {
  // Other programs and processes.
  ...{ fork: 57, vfork: 58, execveat: 322 },
  ...{ ptrace: 101, process_vm_readv: 310, process_vm_writev: 311, process_madvise: 440, kcmp: 312 },
  ...{ pidfd_open: 434, pidfd_getfd: 438 },
  // Mounts, namespaces and files by their handles.
  ...{ mount: 165, umount2: 166, pivot_root: 155, chroot: 161, unshare: 272, setns: 308, open_tree: 428 },
  ...{ move_mount: 429, fsopen: 430, fsconfig: 431, fsmount: 432, fspick: 433, mount_setattr: 442 },
  ...{ name_to_handle_at: 303, open_by_handle_at: 304, fanotify_init: 300 },
  // Large interfaces of the kernel that are not needed.
  ...{ bpf: 321, perf_event_open: 298, userfaultfd: 323, memfd_secret: 447 },
  ...{ io_uring_setup: 425, io_uring_enter: 426, io_uring_register: 427 },
  ...{ add_key: 248, request_key: 249, keyctl: 250, modify_ldt: 154, personality: 135, uselib: 134 },
  // The administration of the host.
  ...{ init_module: 175, finit_module: 313, delete_module: 176, kexec_load: 246, kexec_file_load: 320, reboot: 169 },
  ...{ settimeofday: 164, clock_settime: 227, adjtimex: 159, clock_adjtime: 305, swapon: 167, swapoff: 168 },
  ...{ sethostname: 170, setdomainname: 171, iopl: 172, ioperm: 173, acct: 163, quotactl: 179, quotactl_fd: 443 },
  ...{ syslog: 103, vhangup: 153 },
  // The process's share of the host.
  ...{ setpriority: 141, sched_setparam: 142, sched_setscheduler: 144, sched_setaffinity: 203, sched_setattr: 314 },
  ...{ ioprio_set: 251, migrate_pages: 256, move_pages: 279, mbind: 237, set_mempolicy: 238 },
} as const;

/** Allowed only for threads and for unix sockets. */
const restricted = { socket: 41, clone: 56, clone3: 435 } as const;

// Instructions of classic BPF, and what a filter reads and returns: linux/bpf_common.h, linux/seccomp.h, linux/audit.h.
const [BPF_LD_W_ABS, BPF_JMP_JEQ_K, BPF_JMP_JGE_K, BPF_JMP_JSET_K, BPF_RET_K] = [0x20, 0x15, 0x35, 0x45, 0x06];
const seccompData = { number: 0, architecture: 4, firstArgument: 16 } as const;
const AUDIT_ARCH_X86_64 = 0xc000003e;
const X32_SYSCALL_BIT = 0x40000000;
const SECCOMP_RET_KILL_PROCESS = 0x80000000;
const SECCOMP_RET_ALLOW = 0x7fff0000;
const SECCOMP_RET_ERRNO = 0x00050000;
const [EPERM, ENOSYS] = [1, 38];
const AF_UNIX = 1;
const CLONE_THREAD = 0x00010000;

/** One instruction, `struct sock_filter`. A jump skips as many instructions as `isSo` or `isNot` says. */
interface Instruction {
  readonly code: number;
  readonly k: number;
  readonly isSo?: number;
  readonly isNot?: number;
}

/**
 * A seccomp filter, as setpriv(1) loads it with `--seccomp-filter`. Processes with it have threads but no child
 * processes, and only unix sockets; calls that a machine never makes fail with EPERM. The filter allows execve(2), by
 * which the machine's process starts. Calls of another architecture end the process. Pure.
 */
export function systemCallFilter(): Buffer {
  const load = (k: number): Instruction => ({ code: BPF_LD_W_ABS, k });
  const end = (k: number): Instruction => ({ code: BPF_RET_K, k });
  const program: Instruction[] = [
    load(seccompData.architecture),
    { code: BPF_JMP_JEQ_K, k: AUDIT_ARCH_X86_64, isSo: 1 },
    end(SECCOMP_RET_KILL_PROCESS),
    load(seccompData.number),
    { code: BPF_JMP_JGE_K, k: X32_SYSCALL_BIT, isNot: 1 },
    end(SECCOMP_RET_KILL_PROCESS),
    ...Object.values(denied).flatMap((number): Instruction[] => [
      { code: BPF_JMP_JEQ_K, k: number, isNot: 1 },
      end(SECCOMP_RET_ERRNO | EPERM),
    ]),
    // The C library then uses clone(2), whose flags a filter can read.
    { code: BPF_JMP_JEQ_K, k: restricted.clone3, isNot: 1 },
    end(SECCOMP_RET_ERRNO | ENOSYS),
    { code: BPF_JMP_JEQ_K, k: restricted.clone, isNot: 4 },
    load(seccompData.firstArgument),
    { code: BPF_JMP_JSET_K, k: CLONE_THREAD, isNot: 1 },
    end(SECCOMP_RET_ALLOW),
    end(SECCOMP_RET_ERRNO | EPERM),
    { code: BPF_JMP_JEQ_K, k: restricted.socket, isNot: 3 },
    load(seccompData.firstArgument),
    { code: BPF_JMP_JEQ_K, k: AF_UNIX, isSo: 1 },
    end(SECCOMP_RET_ERRNO | EPERM),
    end(SECCOMP_RET_ALLOW),
  ];
  return Buffer.concat(
    program.map(({ code, k, isSo = 0, isNot = 0 }) => {
      const bytes = Buffer.alloc(8);
      bytes.writeUInt16LE(code, 0);
      bytes.writeUInt8(isSo, 2);
      bytes.writeUInt8(isNot, 3);
      bytes.writeUInt32LE(k >>> 0, 4);
      return bytes;
    }),
  );
}
