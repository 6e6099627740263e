import { codeOf, type SandboxCode } from "./code.ts";
import type { Agent, AttachedAgent, StartAgent } from "./clients/agents.ts";
import type { Checkpoint, CreateCheckpoint, Fork } from "./clients/checkpoints.ts";
import { connect } from "./client.ts";
import type { Client } from "./client.ts";
import type { ExecResult, ExecStream } from "./clients/exec.ts";
import type {
  FileAttributes,
  FileChange,
  FileEntry,
  ReadOptions,
  SignedUrl,
  StatOptions,
  WriteOptions,
} from "./clients/files.ts";
import type { ImagesClient } from "./clients/images.ts";
import type { Network, NetworkRefusal, SetNetwork } from "./clients/network.ts";
import { openPausingSocket } from "./transport/node-socket.ts";
import type { CreatePreview, Preview } from "./clients/previews.ts";
import type { AutoscaleRange, CreateSandbox, ListOptions, SandboxInfo } from "./clients/sandboxes.ts";
import type { ExecOutput } from "./clients/exec.ts";
import type { AttachedSession, ExecSession, StartSession, TerminalSize } from "./clients/sessions.ts";
import { openGlobalSocket } from "./transport/socket.ts";
import type { OpenSocket } from "./transport/socket.ts";
import { bytesOfPipe, readableBytes, writableTo } from "./transport/streams.ts";

/** The server to use and the key for it. Defaults come from `OPENSANDBOX_API_URL` and `OPENSANDBOX_API_KEY`. */
export interface Connection {
  /** Default: `OPENSANDBOX_API_URL`, else `http://127.0.0.1:8080`. */
  readonly url?: string;
  /** Default: `OPENSANDBOX_API_KEY`. */
  readonly apiKey?: string;
  /** Opens WebSockets. Default: `ws` in Node.js, the global `WebSocket` elsewhere. */
  readonly openSocket?: OpenSocket;
}

export interface Abortable {
  /** Aborting it ends the call and any stream that the call opened; the call rejects with `canceled`. */
  readonly signal?: AbortSignal;
}

export interface CreateOptions extends CreateSandbox, Connection, Abortable {
  /** Called with a description of each long step, such as building an image. */
  readonly onProgress?: (step: string) => void;
}

/** Options of every command. */
export interface CommandOptions extends Abortable {
  readonly envs?: Readonly<Record<string, string>>;
  /** Default: the user's home. */
  readonly cwd?: string;
  /** Default: `sandbox`. */
  readonly user?: string;
  /** Seconds until the command and its child processes are killed; 0: never. Default: 60 for `run`, otherwise 0. */
  readonly timeout?: number;
}

/** A running command. Its output can be read once: as `output`, as `stdout` or as `stderr`. */
export interface Command extends ExecStream {
  /** Standard output as a web stream. Standard error is discarded. */
  readonly stdout: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** Standard error as a web stream. Standard output is discarded. */
  readonly stderr: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** Standard input as a web stream, for a command that was started with `stdin`. */
  readonly stdin: WritableStream<Uint8Array>;
}

/** A program in a terminal. It survives a lost connection; `sandbox.execSessions.attach` reconnects to it. */
export interface Terminal extends Omit<AttachedSession, "output"> {
  readonly sessionId: string;
  /** The terminal's output; ends with the program. */
  readonly output: AsyncIterable<Uint8Array>;
  resize(size: TerminalSize, options?: Abortable): Promise<void>;
  /** Sends a signal to the program's process group. Default: 9. */
  kill(signal?: number, options?: Abortable): Promise<void>;
}

/** A command line for `/bin/sh -c`, or a program and its arguments, which run without a shell. */
export type CommandLine = string | readonly [string, ...string[]];

/**
 * A Linux machine of your own.
 *
 * @example
 * await using sandbox = await Sandbox.create();
 * const { stdout } = await sandbox.exec.run("python3 -c 'print(6*7)'");
 */
export class Sandbox implements AsyncDisposable {
  readonly id: string;
  readonly exec: SandboxExec;
  readonly execSessions: SandboxSessions;
  readonly pty: SandboxPty;
  readonly agents: SandboxAgents;
  readonly files: SandboxFiles;
  readonly code: SandboxCode;
  readonly checkpoints: SandboxCheckpoints;
  readonly previews: SandboxPreviews;
  readonly network: SandboxNetwork;
  readonly #client: Client;

  private constructor(client: Client, id: string) {
    this.id = id;
    this.#client = client;
    this.exec = execOf(client, id);
    this.execSessions = sessionsOf(client, id);
    this.pty = ptyOf(client, id);
    this.agents = agentsOf(client, id);
    this.files = filesOf(client, id);
    this.code = codeOf(client, id);
    this.checkpoints = checkpointsOf(client, id);
    this.previews = {
      create: async (request, { signal } = {}) => await client.previews.create(id, request, signal),
      list: async ({ signal } = {}) => await client.previews.list(id, signal),
      delete: async (port, { signal } = {}) => await client.previews.delete(id, port, signal),
    };
    this.network = {
      get: async ({ signal } = {}) => await client.network.get(id, signal),
      set: async (request, { signal } = {}) => await client.network.set(id, request, signal),
      log: async ({ signal } = {}) => await client.network.log(id, signal),
    };
  }

  /**
   * Creates a sandbox. Resolves when commands can run in it.
   *
   * @throws SandboxError
   *
   * @example
   * await using sandbox = await Sandbox.create({ envs: { DEBUG: "1" }, idleTimeoutSeconds: 600 });
   */
  static async create(options: CreateOptions = {}): Promise<Sandbox> {
    const { url: _url, apiKey: _key, openSocket: _open, signal, onProgress, ...request } = options;
    const client = clientOf(options);
    const { id } = await client.sandboxes.create(request, onProgress === undefined ? {} : { onProgress }, signal);
    return new Sandbox(client, id);
  }

  /**
   * Connects to an existing sandbox.
   *
   * @throws SandboxError `not_found` when there is no such sandbox
   *
   * @example
   * const sandbox = await Sandbox.connect("sb-1a2b3c4d");
   */
  static async connect(id: string, options: Connection & Abortable = {}): Promise<Sandbox> {
    const client = clientOf(options);
    await client.sandboxes.get(id, options.signal);
    return new Sandbox(client, id);
  }

  /**
   * The newest sandboxes; by default 100 of those that run.
   *
   * @example
   * for (const { id, status } of await Sandbox.list()) console.log(id, status);
   */
  static async list(options: ListOptions & Connection & Abortable = {}): Promise<readonly SandboxInfo[]> {
    return await clientOf(options).sandboxes.list(options, options.signal);
  }

  /**
   * Creates a sandbox from a checkpoint: with its files and, unless it is `disk_only`, its running processes.
   *
   * @example
   * const { id } = await sandbox.checkpoints.create({ name: "prepared" });
   * await using copy = await Sandbox.fromCheckpoint(id, { envs: { TASK: "2" } });
   */
  static async fromCheckpoint(checkpointId: string, options: Fork & Connection & Abortable = {}): Promise<Sandbox> {
    const client = clientOf(options);
    const { url: _url, apiKey: _key, openSocket: _open, signal, ...request } = options;
    return new Sandbox(client, (await client.checkpoints.fork(checkpointId, request, signal)).id);
  }

  /**
   * Images of your own, built from steps.
   *
   * @example
   * await Sandbox.images().build("with-numpy", { steps: [{ type: "pip_install", args: { packages: ["numpy"] } }] });
   */
  static images(connection: Connection = {}): ImagesClient {
    return clientOf(connection).images;
  }

  /** The sandbox's current state. */
  async info({ signal }: Abortable = {}): Promise<SandboxInfo> {
    return await this.#client.sandboxes.get(this.id, signal);
  }

  /**
   * Saves the sandbox to disk with its memory and processes, and frees the host's memory. Any use wakes it.
   *
   * @example
   * await sandbox.hibernate();
   */
  async hibernate({ signal }: Abortable = {}): Promise<void> {
    await this.#client.sandboxes.hibernate(this.id, signal);
  }

  /**
   * Wakes a hibernated sandbox. Resolves when commands can run in it. Every other use wakes it too.
   *
   * @example
   * await sandbox.wake();
   */
  async wake({ signal }: Abortable = {}): Promise<SandboxInfo> {
    return await this.#client.sandboxes.wake(this.id, {}, signal);
  }

  /**
   * Lets the load of the sandbox set its memory within a range. A bound that is absent is the present size. A later `scale`
   * ends it.
   */
  async setAutoscale(range: AutoscaleRange | "off", { signal }: Abortable = {}): Promise<void> {
    await this.#client.sandboxes.setAutoscale(this.id, range, signal);
  }

  /**
   * Changes environment variables: for commands that start from now on when the sandbox runs, otherwise from its next wake.
   * null removes a variable, and those that are not named stay. Returns the names of all variables.
   */
  async changeEnvironment(
    changes: Readonly<Record<string, string | null>>,
    { signal }: Abortable = {},
  ): Promise<readonly string[]> {
    return await this.#client.sandboxes.changeEnvironment(this.id, changes, signal);
  }

  /**
   * Changes the memory of the running sandbox, up to eight times what its machine booted with. Rejects with `wrong_state` when the
   * sandbox uses memory that it would have to give back.
   */
  async scale(memoryMib: number, { signal }: Abortable = {}): Promise<void> {
    await this.#client.sandboxes.scale(this.id, memoryMib, signal);
  }

  /** Reboots the guest: processes end, files stay. */
  async reboot({ signal }: Abortable = {}): Promise<void> {
    await this.#client.sandboxes.reboot(this.id, signal);
  }

  /**
   * Creates a copy of this sandbox in its current state, with its running processes. This sandbox pauses for a moment.
   *
   * @example
   * await using other = await sandbox.fork();
   * await other.exec.run("rm -rf build");
   */
  async fork(options: Fork & Abortable = {}): Promise<Sandbox> {
    const { signal, ...request } = options;
    const { checkpoints } = this.#client;
    const { id } = await checkpoints.create(this.id, { name: `fork-${crypto.randomUUID()}` }, signal);
    try {
      return new Sandbox(this.#client, (await checkpoints.fork(id, request, signal)).id);
    } finally {
      // The fork does not need its checkpoint any longer.
      await checkpoints.delete(this.id, id);
    }
  }

  /** Sets the idle timeout in seconds (0: never) and restarts it. */
  async setTimeout(seconds: number, { signal }: Abortable = {}): Promise<void> {
    await this.#client.sandboxes.setTimeout(this.id, seconds, signal);
  }

  /** Deletes the sandbox. Only its checkpoints remain. */
  async kill({ signal }: Abortable = {}): Promise<void> {
    await this.#client.sandboxes.kill(this.id, signal);
  }

  /** Deletes the sandbox at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

export interface SandboxExec {
  /**
   * Runs a command to its end. A failing command is a result, not an error: check `exitCode`.
   *
   * @example
   * const { exitCode, stdout, stderr } = await sandbox.exec.run("npm test", { cwd: "/workspace", timeout: 300 });
   * // Without a shell, arguments need no quoting.
   * await sandbox.exec.run(["touch", "a file; with anything in its name"]);
   */
  run(command: CommandLine, options?: CommandOptions): Promise<ExecResult>;
  /**
   * Starts a command and streams its output. Without `stdin` the command's standard input is empty.
   *
   * @example
   * const command = await sandbox.exec.stream("make");
   * for await (const { pipe, bytes } of command.output) console.log(pipe, new TextDecoder().decode(bytes));
   * console.log(await command.exitCode);
   */
  stream(command: CommandLine, options?: CommandOptions & { readonly stdin?: boolean }): Promise<Command>;
}

export interface SandboxSessions {
  /**
   * Starts a command that runs without a client, across hibernation and restarts of the server.
   *
   * @example
   * const { id } = await sandbox.execSessions.start("python3 train.py", { envs: { EPOCHS: "10" } });
   */
  start(
    command: CommandLine,
    options?: CommandOptions & Pick<StartSession, "terminal" | "maxRunAfterDisconnect">,
  ): Promise<ExecSession>;
  list(options?: Abortable): Promise<readonly ExecSession[]>;
  /**
   * Reads the kept output, then new output. Leaving the iteration leaves the command running.
   *
   * @example
   * const session = await sandbox.execSessions.attach(id);
   * for await (const { bytes } of session.output) console.log(new TextDecoder().decode(bytes));
   * console.log(await session.exitCode);
   */
  attach(sessionId: string, options?: Abortable): Promise<AttachedSession>;
  /** The kept output, about 1 MiB. Does not wait for more. */
  logs(sessionId: string, options?: Abortable): AsyncIterable<ExecOutput>;
  /** Sends a signal to the session's process group. Default: 9. */
  kill(sessionId: string, signal?: number, options?: Abortable): Promise<void>;
}

export interface SandboxPty {
  /**
   * Starts a program in a terminal. Default: a login shell.
   *
   * @example
   * const terminal = await sandbox.pty.open({ columns: 120, rows: 40 });
   * await terminal.write(new TextEncoder().encode("top\n"));
   * for await (const bytes of terminal.output) console.log(new TextDecoder().decode(bytes));
   */
  open(options?: CommandOptions & Partial<TerminalSize> & { readonly command?: CommandLine }): Promise<Terminal>;
}

/** An agent needs `ANTHROPIC_API_KEY`, in the sandbox's environment or in its own. */
export interface SandboxAgents {
  /**
   * Starts an agent and attaches to it.
   *
   * @example
   * const agent = await sandbox.agents.start({ prompt: "make the tests pass" });
   * for await (const { type, result } of agent.events) {
   *   if (type === "result") console.log(result);
   *   if (type === "turn_complete") break;
   * }
   */
  start(options?: StartAgent & Abortable): Promise<AttachedAgent>;
  /** The agents that run or ended within the last five minutes. */
  list(options?: Abortable): Promise<readonly Agent[]>;
  /** Reads an agent's kept events, then new ones. */
  attach(agentId: string, options?: Abortable): Promise<AttachedAgent>;
}

/** Paths are the guest's. A relative path starts at the user's home. */
export interface SandboxFiles {
  read(path: string, options?: ReadOptions & Abortable): Promise<Uint8Array>;
  /**
   * @example
   * const config = JSON.parse(await sandbox.files.readText("config.json"));
   */
  readText(path: string, options?: Abortable): Promise<string>;
  /**
   * Reads a file as a stream, for files larger than memory.
   *
   * @example
   * const archive = await sandbox.files.readStream("/workspace/all.tar");
   * await archive.pipeTo(new WritableStream({ write: (bytes) => console.log(bytes.length) }));
   */
  readStream(path: string, options?: ReadOptions & Abortable): Promise<ReadableStream<Uint8Array<ArrayBuffer>>>;
  /**
   * Replaces a file once all of `content` has arrived. Creates missing parent directories.
   *
   * @example
   * await sandbox.files.write("src/main.py", "print('hello')\n");
   * await sandbox.files.write("bin/tool", new Uint8Array(1000), { mode: 0o755 });
   */
  write(
    path: string,
    content: ReadableStream<Uint8Array> | AsyncIterable<Uint8Array> | Uint8Array | string,
    options?: WriteOptions & Abortable,
  ): Promise<void>;
  list(path: string, options?: Abortable): Promise<readonly FileEntry[]>;
  stat(path: string, options?: StatOptions & Abortable): Promise<FileEntry>;
  exists(path: string, options?: Abortable): Promise<boolean>;
  mkdir(path: string, options?: Abortable): Promise<void>;
  rename(from: string, to: string, options?: Abortable): Promise<void>;
  setAttributes(path: string, attributes: FileAttributes, options?: Abortable): Promise<FileEntry>;
  /** Removes a file or a directory tree. A missing path is not an error. */
  remove(path: string, options?: Abortable): Promise<void>;
  /**
   * Watches a file or a directory. Changes made after the promise resolves are reported. Leaving the iteration ends the
   * watch.
   *
   * @example
   * for await (const { kind, path } of await sandbox.files.watch("/workspace", { recursive: true })) {
   *   console.log(kind, path);
   * }
   */
  watch(path: string, options?: Abortable & { readonly recursive?: boolean }): Promise<AsyncIterable<FileChange>>;
  /**
   * A URL that serves the file without a key. Default: for one hour.
   *
   * @example
   * const { url } = await sandbox.files.downloadUrl("report.pdf", { seconds: 600 });
   */
  downloadUrl(path: string, options?: Abortable & { readonly seconds?: number }): Promise<SignedUrl>;
  /** A URL that accepts the file's content without a key. Default: for one hour. */
  uploadUrl(path: string, options?: Abortable & { readonly seconds?: number }): Promise<SignedUrl>;
}

export interface SandboxCheckpoints {
  /**
   * Creates a checkpoint. Resolves when it is ready.
   *
   * @example
   * const { id } = await sandbox.checkpoints.create({ name: "before the upgrade" });
   * await sandbox.exec.run("sudo apt-get -y upgrade");
   * await sandbox.checkpoints.restore(id);
   */
  create(request: CreateCheckpoint, options?: Abortable): Promise<Checkpoint>;
  list(options?: Abortable): Promise<readonly Checkpoint[]>;
  /** Restores the sandbox to a checkpoint, in place. */
  restore(checkpointId: string, options?: Abortable): Promise<void>;
  /** Deletes a checkpoint. Sandboxes forked from it are unaffected. */
  delete(checkpointId: string, options?: Abortable): Promise<void>;
}

export interface SandboxPreviews {
  /**
   * Gives a port a host name. Ports without one are served too.
   *
   * @example
   * const { hostname } = await sandbox.previews.create({ port: 8080 });
   */
  create(request: CreatePreview, options?: Abortable): Promise<Preview>;
  list(options?: Abortable): Promise<readonly Preview[]>;
  delete(port: number, options?: Abortable): Promise<void>;
}

export interface SandboxNetwork {
  get(options?: Abortable): Promise<Network>;
  /**
   * Changes the network policy, for open connections too.
   *
   * @example
   * await sandbox.network.set({ egress: { allow: ["pypi.org", "*.pythonhosted.org"] } });
   */
  set(request: SetNetwork, options?: Abortable): Promise<Network>;
  /** Connections refused within the last hour, newest first. */
  log(options?: Abortable): Promise<readonly NetworkRefusal[]>;
}

function execOf(client: Client, id: string): SandboxExec {
  return {
    async run(command, { signal, ...options } = {}) {
      return await client.exec.run(id, { ...requestOf(command), ...options }, signal);
    },
    async stream(command, { signal, ...options } = {}) {
      const stream = await client.exec.stream(id, { ...requestOf(command), ...options }, signal);
      return {
        ...stream,
        // Created on access: the output can be read only once.
        get stdout() {
          return readableBytes(bytesOfPipe(stream.output, "stdout"));
        },
        get stderr() {
          return readableBytes(bytesOfPipe(stream.output, "stderr"));
        },
        get stdin() {
          return writableTo(stream);
        },
      };
    },
  };
}

function sessionsOf(client: Client, id: string): SandboxSessions {
  return {
    async start(command, { signal, ...options } = {}) {
      return await client.sessions.start(id, { ...requestOf(command), ...options }, signal);
    },
    list: async ({ signal } = {}) => await client.sessions.list(id, signal),
    attach: async (sessionId, { signal } = {}) => await client.sessions.attach(id, sessionId, signal),
    logs: (sessionId, { signal } = {}) => client.sessions.logs(id, sessionId, signal),
    kill: async (sessionId, number, { signal } = {}) => await client.sessions.kill(id, sessionId, number, signal),
  };
}

const defaultTerminal = { columns: 80, rows: 24 } as const;

function ptyOf(client: Client, id: string): SandboxPty {
  return {
    async open({ command, columns, rows, signal, ...options } = {}) {
      const terminal = { columns: columns ?? defaultTerminal.columns, rows: rows ?? defaultTerminal.rows };
      const program = command === undefined ? { cmd: "/bin/bash", args: ["-l"] } : requestOf(command);
      const session = await client.sessions.start(id, { ...program, ...options, terminal }, signal);
      const attached = await client.sessions.attach(id, session.id, signal);
      return {
        ...attached,
        sessionId: session.id,
        output: bytesOfPipe(attached.output, "stdout"),
        resize: async (size, { signal } = {}) => await client.sessions.resize(id, session.id, size, signal),
        kill: async (number, { signal } = {}) => await client.sessions.kill(id, session.id, number, signal),
      };
    },
  };
}

function agentsOf({ agents }: Client, id: string): SandboxAgents {
  return {
    async start({ signal, ...request } = {}) {
      const agent = await agents.start(id, request, signal);
      return await agents.attach(id, agent.id, signal);
    },
    list: async ({ signal } = {}) => await agents.list(id, signal),
    attach: async (agentId, { signal } = {}) => await agents.attach(id, agentId, signal),
  };
}

function filesOf({ files }: Client, id: string): SandboxFiles {
  return {
    async read(path, { signal, ...part } = {}) {
      return await joined((await files.read(id, path, part, signal)).content);
    },
    async readText(path, { signal } = {}) {
      return new TextDecoder().decode(await joined((await files.read(id, path, {}, signal)).content));
    },
    async readStream(path, { signal, ...part } = {}) {
      return readableBytes((await files.read(id, path, part, signal)).content);
    },
    async write(path, content, { signal, ...options } = {}) {
      await files.write(id, path, content, options, signal);
    },
    list: async (path, { signal } = {}) => await files.list(id, path, signal),
    stat: async (path, { signal, ...options } = {}) => await files.stat(id, path, options, signal),
    exists: async (path, { signal } = {}) => await files.exists(id, path, signal),
    mkdir: async (path, { signal } = {}) => await files.mkdir(id, path, signal),
    rename: async (from, to, { signal } = {}) => await files.rename(id, from, to, signal),
    setAttributes: async (path, attributes, { signal } = {}) => await files.setAttributes(id, path, attributes, signal),
    remove: async (path, { signal } = {}) => await files.remove(id, path, signal),
    watch: async (path, { signal, ...options } = {}) => await files.watch(id, path, options, signal),
    downloadUrl: async (path, { seconds, signal } = {}) => await files.signDownload(id, path, seconds, signal),
    uploadUrl: async (path, { seconds, signal } = {}) => await files.signUpload(id, path, seconds, signal),
  };
}

function checkpointsOf({ checkpoints }: Client, id: string): SandboxCheckpoints {
  return {
    create: async (request, { signal } = {}) => await checkpoints.create(id, request, signal),
    list: async ({ signal } = {}) => await checkpoints.list(id, signal),
    restore: async (checkpointId, { signal } = {}) => await checkpoints.restore(id, checkpointId, signal),
    delete: async (checkpointId, { signal } = {}) => await checkpoints.delete(id, checkpointId, signal),
  };
}

function requestOf(command: CommandLine): { readonly cmd: string; readonly args?: readonly string[] } {
  if (typeof command === "string") return { cmd: command };
  const [cmd, ...args] = command;
  return { cmd, args };
}

async function joined(content: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of content) {
    parts.push(part);
    length += part.length;
  }
  const all = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

const localServer = "http://127.0.0.1:8080";

function clientOf({ url, apiKey, openSocket }: Connection): Client {
  const key = apiKey ?? variable("OPENSANDBOX_API_KEY");
  return connect({
    url: url ?? variable("OPENSANDBOX_API_URL") ?? localServer,
    ...(key === undefined ? {} : { apiKey: key }),
    openSocket: openSocket ?? defaultSocket(),
  });
}

/** An environment variable. Browsers have no environment. */
function variable(name: string): string | undefined {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  const value = process?.env?.[name];
  return value === "" ? undefined : value;
}

/** Node's global WebSocket cannot pause, hence `ws`. Bun and Deno use their own. */
function defaultSocket(): OpenSocket {
  const { process } = globalThis as { process?: { versions?: Record<string, string | undefined> } };
  const versions = process?.versions;
  const isNode = versions?.["node"] !== undefined && versions["bun"] === undefined && versions["deno"] === undefined;
  return isNode ? openPausingSocket : openGlobalSocket;
}
