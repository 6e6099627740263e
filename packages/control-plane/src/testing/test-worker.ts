import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import type {
  AdoptedSandbox,
  ByteRange,
  Capture,
  CapturedSnapshot,
  Exec,
  ExecEnd,
  ExecOutput,
  FileChange,
  FileEntry,
  GuestAnswers,
  NetworkRefusal,
  NewExecSession,
  OpenFile,
  RunningExec,
  Scaled,
  SandboxEnd,
  StartedSandbox,
  StartSandbox,
  StoredSnapshot,
  Worker,
  WorkerDescription,
} from "@opensandbox/wire/worker/worker.ts";
import { TestHost, type TestMachine } from "./test-host.ts";
import { type TestSession, TestSessions } from "./test-sessions.ts";

/** A worker for tests: sandboxes are entries, commands are processes of this host, files are in memory. */
export class TestWorker implements Worker {
  readonly id: string;
  readonly started: StartSandbox[] = [];
  readonly stopped: SandboxId[] = [];
  /** Commands that have not ended. */
  readonly running = new Set<ChildProcessWithoutNullStreams>();
  /** Takes part in every start, so that a test can hold it or let it fail. */
  onStart: (request: StartSandbox, onProgress: Parameters<Worker["startSandbox"]>[1], signal: AbortSignal) => unknown =
    () => {};
  onStop: (id: SandboxId) => unknown = () => {};
  /** Takes part in every command; an error it throws is the command's failure to start. */
  onExec: (request: Exec) => unknown = () => {};
  /** The others, in the same way; what they throw is the failure of the step, of which nothing has happened then. */
  onHibernate: (id: SandboxId, snapshotId: SnapshotId, signal: AbortSignal) => unknown = () => {};
  onCapture: (id: SandboxId, request: Capture, signal: AbortSignal) => unknown = () => {};
  onReboot: (id: SandboxId) => unknown = () => {};
  onPowerCycle: (id: SandboxId) => unknown = () => {};
  /** What it returns is the answer; otherwise the machine has the size then. */
  onScale: (id: SandboxId, memoryMib: number) => Scaled | undefined | Promise<Scaled | undefined> = () => undefined;
  onSync: (id: SandboxId, signal: AbortSignal) => unknown = () => {};
  onRemoveSnapshot: (snapshotId: SnapshotId) => unknown = () => {};
  /** Takes part when a step has happened and its caller does not know yet: where it hangs, the answer is lost. */
  onDone: (step: "start" | "stop" | "hibernate" | "capture" | "power-cycle", id: SandboxId) => unknown = () => {};
  /** What is told to those who watch a path. */
  readonly changes = new Map<string, readonly (readonly FileChange[])[]>();
  /** Bytes of uploads that were given up. */
  readonly brokenUploads: string[] = [];
  onSetNetworkPolicy: (id: SandboxId, policy: NetworkPolicy) => unknown = () => {};
  readonly policies = new Map<SandboxId, NetworkPolicy>();
  refusals: readonly NetworkRefusal[] = [];
  /** Ports that were connected to, or tried. */
  readonly opened: number[] = [];
  readonly adopted: readonly AdoptedSandbox[];
  /** The clock of the guests. */
  now: () => number = Date.now;
  /** They stay when a machine hibernates. */
  readonly #sessions = new Map<SandboxId, TestSessions>();
  released = false;
  readonly host: TestHost;

  /** Takes over what is on the host already. */
  constructor(id = "worker-1", host = new TestHost()) {
    this.id = id;
    this.host = host;
    this.adopted = host.adopt();
  }

  describe(): WorkerDescription {
    return {
      hypervisor: "fake",
      hypervisorVersion: "0",
      accelerator: { name: "none", reason: "a test" },
      network: { mode: "none", reason: "a test" },
      images: ["default", "minimal"],
    };
  }

  /** Those whose machines run. */
  get live(): SandboxId[] {
    return [...this.host.machines].filter(([, { running }]) => running).map(([id]) => id);
  }

  async startSandbox(
    request: StartSandbox,
    onProgress: Parameters<Worker["startSandbox"]>[1],
    signal: AbortSignal,
  ): Promise<StartedSandbox> {
    this.started.push(request);
    await this.onStart(request, onProgress, signal);
    signal.throwIfAborted();
    const restored = this.host.start(request);
    await this.onDone("start", request.id);
    return { ...restored, spans: [{ name: "machine start", milliseconds: 1.25 }] };
  }

  async stopSandbox(id: SandboxId): Promise<void> {
    await this.onStop(id);
    this.stopped.push(id);
    this.host.stop(id);
    this.#sessions.get(id)?.removeAll();
    this.#sessions.delete(id);
    await this.onDone("stop", id);
  }

  ended(id: SandboxId): Promise<SandboxEnd> {
    return this.host.machine(id).end.promise;
  }

  /** As if the process of the machine had died. */
  crash(id: SandboxId, detail: string, reason?: "exited" | "reset"): void {
    this.host.crash(id, detail, reason);
  }

  async captureSandbox(id: SandboxId, request: Capture, signal: AbortSignal): Promise<CapturedSnapshot> {
    await this.onCapture(id, request, signal);
    signal.throwIfAborted();
    const { sizeBytes } = this.host.capture(id, request);
    await this.onDone("capture", id);
    return { sizeBytes, pausedMs: 1 };
  }

  async hibernateSandbox(id: SandboxId, snapshotId: SnapshotId, signal: AbortSignal): Promise<CapturedSnapshot> {
    await this.onHibernate(id, snapshotId, signal);
    signal.throwIfAborted();
    const { sizeBytes } = this.host.capture(id, { snapshotId, contents: "memory and disks" });
    this.host.stop(id);
    await this.onDone("hibernate", id);
    return { sizeBytes, pausedMs: 1 };
  }

  async findSnapshot(snapshotId: SnapshotId): Promise<StoredSnapshot | undefined> {
    await Promise.resolve();
    const snapshot = this.host.snapshots.get(snapshotId);
    return snapshot && { sizeBytes: snapshot.sizeBytes };
  }

  async removeSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.onRemoveSnapshot(snapshotId);
    this.host.snapshots.delete(snapshotId);
  }

  async rebootSandbox(id: SandboxId): Promise<void> {
    this.#machine(id);
    await this.onReboot(id);
  }

  async powerCycleSandbox(id: SandboxId): Promise<void> {
    await this.onPowerCycle(id);
    this.host.powerCycle(id);
    await this.onDone("power-cycle", id);
  }

  async scaleSandbox(id: SandboxId, memoryMib: number): Promise<Scaled> {
    const machine = this.#machine(id);
    const scaled = (await this.onScale(id, memoryMib)) ?? { done: true };
    if (scaled.done) machine.request = { ...machine.request, memoryMib };
    return scaled;
  }

  /** As its guest asks. */
  guests: GuestAnswers | undefined;

  answerGuests(answers: GuestAnswers): void {
    this.guests = answers;
  }

  async syncSandbox(id: SandboxId, signal: AbortSignal): Promise<void> {
    this.#machine(id);
    await this.onSync(id, signal);
  }

  async release(): Promise<void> {
    await Promise.resolve();
    this.released = true;
  }

  async exec(id: SandboxId, request: Exec, signal: AbortSignal): Promise<RunningExec> {
    this.#machine(id);
    await this.onExec(request);
    const [program, ...args] = request.argv;
    const env = { PATH: process.env["PATH"] ?? "", ...request.envs };
    const child = spawn(program, args, { env, cwd: request.cwd ?? "/tmp", detached: true });
    await once(child, "spawn").catch((error: unknown) => {
      throw new SandboxError("not_found", `${program} not found`, { resource: "file", id: program }, { cause: error });
    });
    this.running.add(child);
    return runningExec(child, request, signal, () => this.running.delete(child));
  }

  sessions(id: SandboxId): TestSessions {
    this.#machine(id);
    const sessions = this.#sessions.get(id) ?? new TestSessions(this.running, () => this.now());
    this.#sessions.set(id, sessions);
    return sessions;
  }

  killAll(): void {
    for (const child of this.running) child.kill("SIGKILL");
  }

  /** As when the machine is stopped, or its agent. */
  loseLines(id: SandboxId): void {
    this.#sessions.get(id)?.loseLine();
  }

  createSession: Worker["createSession"] = async (id, request) => (await this.#start(id, request)).info();

  runSession: Worker["runSession"] = async (id, request, signal) => (await this.#start(id, request)).attach({}, signal);

  attachSession: Worker["attachSession"] = async (id, sessionId, options, signal) => {
    await Promise.resolve();
    return this.sessions(id).get(sessionId).attach(options, signal);
  };

  listSessions: Worker["listSessions"] = async (id) => {
    await Promise.resolve();
    return this.sessions(id).list();
  };

  waitForSession: Worker["waitForSession"] = async (id, sessionId, milliseconds, signal) => {
    const session = this.sessions(id).get(sessionId);
    signal.throwIfAborted();
    const over = sleep(milliseconds, undefined, { signal, ref: false });
    await Promise.race([session.ended, over]);
    over.catch(() => {});
    return session.info();
  };

  signalSession: Worker["signalSession"] = async (id, sessionId, number) => {
    await Promise.resolve();
    this.sessions(id).get(sessionId).kill(number);
  };

  resizeSession: Worker["resizeSession"] = async (id, sessionId, size) => {
    await Promise.resolve();
    this.sessions(id).get(sessionId).size = size;
  };

  removeSession: Worker["removeSession"] = async (id, sessionId) => {
    await Promise.resolve();
    this.sessions(id).remove(sessionId);
  };

  async #start(id: SandboxId, request: NewExecSession): Promise<TestSession> {
    const [program = "/bin/sh", ...args] = request.command.argv;
    await this.onExec({ ...request.command, argv: [program, ...args] });
    return await this.sessions(id).create(request);
  }

  async readFile(id: SandboxId, path: string, range: ByteRange, signal: AbortSignal): Promise<OpenFile> {
    const entry = await this.statFile(id, path, {}, signal);
    const chunks = partOf(this.#machine(id).files.get(path)?.chunks ?? [], range);
    return {
      entry,
      content: (async function* () {
        for (const chunk of chunks) {
          await Promise.resolve();
          signal.throwIfAborted();
          if (chunk instanceof Error) throw chunk;
          yield chunk;
        }
      })(),
    };
  }

  async writeFile(
    id: SandboxId,
    path: string,
    content: AsyncIterable<Uint8Array>,
    options: { readonly mode?: number },
    signal: AbortSignal,
  ): Promise<number> {
    const { files } = this.#machine(id);
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    try {
      for await (const chunk of content) {
        signal.throwIfAborted();
        if (path.startsWith("/full/")) throw new SandboxError("quota_exceeded", `no space left for ${path}`);
        bytes += chunk.length;
        // Like a sink: only its size matters to tests with large bodies.
        if (!path.startsWith("/sink/")) chunks.push(Uint8Array.from(chunk));
      }
    } catch (error) {
      this.brokenUploads.push(path);
      throw error;
    }
    files.set(path, { chunks, size: bytes, mode: options.mode ?? 0o644 });
    return bytes;
  }

  /** Puts a file there as it never is on a disk: one that breaks in the middle, or whose size is wrong. */
  plantFile(id: SandboxId, path: string, chunks: readonly (Uint8Array | Error)[], size: number): void {
    this.#machine(id).files.set(path, { chunks, size, mode: 0o644 });
  }

  async statFile(
    id: SandboxId,
    path: string,
    _options: { readonly noFollow?: boolean },
    signal: AbortSignal,
  ): Promise<FileEntry> {
    const { files } = this.#machine(id);
    await Promise.resolve();
    signal.throwIfAborted();
    const name = path.split("/").at(-1) ?? "";
    const file = files.get(path);
    const owned = { modifiedMs: 0, owner: "sandbox", group: "sandbox" };
    if (file !== undefined) return { name, path, kind: "file", size: file.size, mode: file.mode, ...owned };
    const isDirectory = [...files.keys()].some((other) => other.startsWith(`${path === "/" ? "" : path}/`));
    if (isDirectory) return { name, path, kind: "directory", size: 4096, mode: 0o755, ...owned };
    throw new SandboxError("not_found", `${path} does not exist`, { resource: "file", id: path });
  }

  async listDirectory(id: SandboxId, path: string, signal: AbortSignal): Promise<readonly FileEntry[]> {
    const directory = await this.statFile(id, path, {}, signal);
    if (directory.kind !== "directory") {
      throw new SandboxError("invalid_argument", `${path} is not a directory`);
    }
    const below = path === "/" ? "/" : `${path}/`;
    const names = [...this.#machine(id).files.keys()]
      .filter((file) => file.startsWith(below))
      .map((file) => file.slice(below.length).split("/")[0] ?? "")
      .filter((name) => name !== "");
    return Promise.all([...new Set(names)].map((name) => this.statFile(id, below + name, {}, signal)));
  }

  renameFile: Worker["renameFile"] = async (id, from, to) => {
    await Promise.resolve();
    const { files } = this.#machine(id);
    const file = files.get(from);
    if (file === undefined) {
      throw new SandboxError("not_found", `${from} does not exist`, { resource: "file", id: from });
    }
    files.set(to, file);
    files.delete(from);
  };

  setFileAttributes: Worker["setFileAttributes"] = async (id, path, { mode }, signal) => {
    const { files } = this.#machine(id);
    const file = files.get(path);
    if (file !== undefined && mode !== undefined) files.set(path, { ...file, mode });
    return await this.statFile(id, path, {}, signal);
  };

  watchFiles: Worker["watchFiles"] = async (id, path, _options, signal) => {
    await this.statFile(id, path, {}, signal);
    const changes = this.changes.get(path) ?? [];
    return (async function* () {
      yield* changes;
      await sleep(2 ** 30, undefined, { signal, ref: false });
    })();
  };

  async makeDirectory(id: SandboxId, path: string): Promise<void> {
    await Promise.resolve();
    this.#machine(id).files.set(`${path}/`, { chunks: [], size: 0, mode: 0o755 });
  }

  async removeFile(id: SandboxId, path: string): Promise<void> {
    await Promise.resolve();
    const { files } = this.#machine(id);
    for (const file of files.keys()) if (file === path || file.startsWith(`${path}/`)) files.delete(file);
  }

  setNetworkPolicy: Worker["setNetworkPolicy"] = async (id, policy) => {
    this.#machine(id);
    await this.onSetNetworkPolicy(id, policy);
    this.policies.set(id, policy);
  };

  networkRefusals: Worker["networkRefusals"] = async (id) => {
    await Promise.resolve();
    this.#machine(id);
    return this.refusals;
  };

  readConsole: Worker["readConsole"] = async (id) => {
    await Promise.resolve();
    this.#machine(id);
    return "the console\n";
  };

  readyMachines: Worker["readyMachines"] = () => ({ wanted: 2, ready: 1, image: "default", memoryMib: 1024, vcpus: 1 });

  /** Ports of every sandbox are those of this host. */
  openPort: Worker["openPort"] = async (id, port, signal) => {
    this.#machine(id);
    this.opened.push(port);
    const socket = connect({ host: "127.0.0.1", port, allowHalfOpen: true, signal });
    socket.on("error", () => {});
    try {
      await once(socket, "connect");
    } catch (error) {
      const details = { resource: "port", id: String(port) } as const;
      throw new SandboxError("not_found", `nothing listens on port ${port}`, details, { cause: error });
    }
    return {
      incoming: socket,
      write: async (bytes) => {
        if (socket.destroyed || socket.write(bytes)) return;
        await Promise.race([once(socket, "drain"), once(socket, "close")]);
      },
      end: async () => {
        await Promise.resolve();
        socket.end();
      },
    };
  };

  #machine(id: SandboxId): TestMachine {
    const machine = this.host.machine(id);
    if (machine.running) return machine;
    throw new SandboxError("unavailable", `the machine of sandbox ${id} has ended`);
  }
}

function partOf(
  chunks: readonly (Uint8Array | Error)[],
  { offset, length }: ByteRange,
): readonly (Uint8Array | Error)[] {
  if (offset === undefined && length === undefined) return chunks;
  const bytes = Buffer.concat(chunks.filter((chunk) => chunk instanceof Uint8Array));
  return [bytes.subarray(offset ?? 0, (offset ?? 0) + (length ?? bytes.length))];
}

function runningExec(
  child: ChildProcessWithoutNullStreams,
  request: Exec,
  signal: AbortSignal,
  onEnd: () => void,
): RunningExec {
  let timedOut = false;
  const killGroup = (signalNumber: number): void => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, signalNumber);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  };
  const abort = (): void => killGroup(9);
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  const timer =
    (request.timeoutMs ?? 0) === 0
      ? undefined
      : setTimeout(() => {
          timedOut = true;
          killGroup(9);
        }, request.timeoutMs);
  child.stdin.on("error", () => {});
  if (!request.stdin) child.stdin.end();

  const end = Promise.withResolvers<ExecEnd>();
  child.once("exit", (code, name) => {
    end.resolve({ exitCode: code ?? 0, signal: name === null ? 0 : constants.signals[name], timedOut });
  });
  const result = end.promise.finally(() => {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    onEnd();
  });
  const ended = result.then((value) => {
    signal.throwIfAborted();
    return value;
  });
  ended.catch(() => {});
  return {
    output: merged(child),
    result: ended,
    write: (bytes) =>
      new Promise((resolve, reject) => {
        child.stdin.write(bytes, (error) => (error ? reject(error) : resolve()));
      }),
    closeStdin: async () => {
      child.stdin.end();
      await Promise.resolve();
    },
    kill: async (signalNumber) => {
      killGroup(signalNumber);
      await Promise.resolve();
    },
  };
}

/** Both pipes as they are read, a chunk at a time: nothing is read ahead of the caller. */
async function* merged(child: ChildProcessWithoutNullStreams): AsyncGenerator<ExecOutput> {
  const sources = {
    stdout: child.stdout[Symbol.asyncIterator]() as AsyncIterator<Buffer>,
    stderr: child.stderr[Symbol.asyncIterator]() as AsyncIterator<Buffer>,
  };
  const nexts = new Map(
    (["stdout", "stderr"] as const).map((pipe) => [pipe, sources[pipe].next().then((next) => ({ pipe, next }))]),
  );
  while (nexts.size > 0) {
    const { pipe, next } = await Promise.race(nexts.values());
    if (next.done) nexts.delete(pipe);
    else {
      yield { pipe, bytes: next.value };
      nexts.set(
        pipe,
        sources[pipe].next().then((following) => ({ pipe, next: following })),
      );
    }
  }
}
