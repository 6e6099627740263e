import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, constants, openSync } from "node:fs";
import { inCgroups } from "#host/cgroups/in-cgroups.ts";
import { killMachineProcesses } from "#host/kill-by-path.ts";
import { closeInheritedOnExec, forbidCoreDumps, inNetworkNamespace, inNewNetworkNamespace } from "#host/kernel/libc.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_TRUNC, O_WRONLY } = constants;

export interface ProcessUser {
  readonly uid: number;
  readonly gid: number;
  /** Supplementary groups; absent: none. */
  readonly groups?: readonly number[];
}

export interface VmProcessOptions {
  readonly argv: readonly [string, ...string[]];
  /** Receives standard output and error. */
  readonly logFile: string;
  readonly user?: ProcessUser;
  /** A file such as /run/netns/a, or `new` for a new, empty namespace; absent: the namespace of this process. */
  readonly namespace?: string;
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  /** Files of the cgroups that the process enters before it becomes the program, by writing `0` to each. */
  readonly cgroupEntrances?: readonly string[];
  /** Opens, in the namespace, the descriptors that the process inherits as 3, 4, ... They are closed here afterwards. */
  openInherited(): number[];
}

/** A process in a session of its own: it survives this process, and Ctrl-C in a terminal does not reach it. */
export interface VmProcess extends AsyncDisposable {
  readonly pid: number;
  /** The kernel's exit code or signal. Both are null for a process that is not a child of this one. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: string | null }>;
}

class ChildVmProcess implements VmProcess {
  readonly pid: number;
  readonly exited: VmProcess["exited"];
  readonly #child: ChildProcess;

  constructor(child: ChildProcess & { readonly pid: number }) {
    this.#child = child;
    this.pid = child.pid;
    const { promise, resolve } = Promise.withResolvers<{ code: number | null; signal: string | null }>();
    child.once("exit", (code, signal) => resolve({ code, signal }));
    this.exited = promise;
  }

  /** Kills the process and waits for its end. @throws `unavailable` when the kernel does not end it in time */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    // Without a reference to the timer, this process could exit during the wait.
    this.#child.ref();
    const late = new SandboxError(
      "unavailable",
      `process ${this.pid} has not ended ${killTimeoutMs / 1000} s after SIGKILL: it waits for the host's storage or ` +
        `network. See /proc/${this.pid}/stack`,
    );
    await orAborted(this.exited, AbortSignal.timeout(killTimeoutMs), () => late);
  }
}

/** A killed process ends at once unless it is in an uninterruptible system call. */
const killTimeoutMs = 60_000;

/** @throws `unavailable` when the program cannot be started */
export async function startVmProcess(options: VmProcessOptions): Promise<VmProcess> {
  forbidCoreDumps();
  closeInheritedOnExec();
  const child = inNamespace(options.namespace, () => start(options));
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  child.once("spawn", resolve);
  child.once("error", reject);
  try {
    await promise;
  } catch (cause) {
    throw new SandboxError("unavailable", `cannot run ${options.argv[0]}: ${String(cause)}`, { cause });
  }
  return new ChildVmProcess(child as ChildProcess & { readonly pid: number });
}

/**
 * A process that an earlier worker started. The kernel reports its end to its parent only, so `gone` stands for it: a
 * promise that settles when a connection to the process closes.
 */
export function adoptVmProcess(pid: number, directory: string, gone: Promise<void>): VmProcess {
  return {
    pid,
    exited: gone.then(() => ({ code: null, signal: null })),
    [Symbol.asyncDispose]: () => killMachineProcesses(directory),
  };
}

function inNamespace<Result>(namespace: string | undefined, work: () => Result): Result {
  if (namespace === undefined) return work();
  return namespace === "new" ? inNewNetworkNamespace(work) : inNetworkNamespace(namespace, work);
}

/** Of two processes that use as much memory, the kernel kills the machine's first. The scale is from -1000 to 1000. */
const oomScore = 500;

/** Changes the user after the process has entered its cgroups, which only this process's user may do. */
function becoming(user: ProcessUser | undefined): string[] {
  if (user === undefined) return [];
  const { uid, gid, groups = [] } = user;
  const supplementary = groups.length === 0 ? "--clear-groups" : `--groups=${groups.join()}`;
  return ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, supplementary, "--"];
}

function start(options: VmProcessOptions): ChildProcess {
  const { user, cgroupEntrances = [] } = options;
  const [program, ...args] = inCgroups(cgroupEntrances, oomScore, [...becoming(user), ...options.argv]);
  const opened: number[] = [];
  try {
    // The log of an earlier process would be taken for the words of this one.
    const log = openSync(options.logFile, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW, 0o600);
    opened.push(log);
    const inherited = options.openInherited();
    opened.push(...inherited);
    const child = spawn(program, args, {
      detached: true,
      cwd: options.cwd,
      env: options.env,
      stdio: ["ignore", log, log, ...inherited],
    });
    child.unref();
    return child;
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}
