import type { ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ByteRange, FileChange, FileEntry, GuestFiles } from "@opensandbox/wire/worker/files.ts";
import type { Guest } from "@opensandbox/wire/worker/guest.ts";
import type { GuestPorts } from "@opensandbox/wire/worker/ports.ts";
import type { Exec, GuestSessions, NewExecSession, RunRequest } from "@opensandbox/wire/worker/sessions.ts";
import type { TestMachine } from "./test-host.ts";
import { type TestSession, TestSessions } from "./test-sessions.ts";

/** State and hooks that the guests of a test worker share with the test. */
export interface TestGuestOptions {
  /** @throws when the machine does not run */
  readonly machine: () => TestMachine;
  /** Called for every command; an error that it throws is the command's failure to start. */
  readonly onExec: (command: Exec) => unknown;
  readonly onSync: (signal: AbortSignal) => unknown;
  readonly now: () => number;
  readonly running: Set<ChildProcessWithoutNullStreams>;
  readonly changes: ReadonlyMap<string, readonly (readonly FileChange[])[]>;
  readonly brokenUploads: string[];
  readonly opened: number[];
}

/** The inside of a test machine: commands are processes of this host, files are in memory, ports are this host's. */
export class TestGuest implements Guest {
  readonly processes: TestSessions;
  readonly sessions: GuestSessions;
  readonly files: GuestFiles;
  readonly ports: GuestPorts;

  constructor(options: TestGuestOptions) {
    this.processes = new TestSessions(options.running, () => options.now());
    this.sessions = sessionsOf(this.processes, options);
    this.files = filesOf(options);
    this.ports = portsOf(options);
  }
}

function sessionsOf(processes: TestSessions, { machine, onExec }: TestGuestOptions): GuestSessions {
  const start = async (request: NewExecSession | RunRequest): Promise<TestSession> => {
    machine();
    const [program = "/bin/sh", ...args] = request.command.argv;
    await onExec({ ...request.command, argv: [program, ...args] });
    return await processes.create(request);
  };
  const get = async (id: string): Promise<TestSession> => {
    await Promise.resolve();
    machine();
    return processes.get(id);
  };
  return {
    create: async (request) => (await start(request)).info(),
    run: async (request, signal) => {
      const session = await start(request);
      if (request.whenDetached === "kill") processes.removeOnAbort(request.id, signal);
      return session.attach({}, signal);
    },
    attach: async (id, options, signal) => (await get(id)).attach(options, signal),
    list: async () => {
      await Promise.resolve();
      machine();
      return processes.list();
    },
    wait: async (id, milliseconds, signal) => {
      const session = await get(id);
      signal.throwIfAborted();
      const over = sleep(milliseconds, undefined, { signal, ref: false });
      await Promise.race([session.ended, over]);
      over.catch(() => {});
      return session.info();
    },
    signal: async (id, number) => (await get(id)).kill(number),
    resize: async (id, size) => {
      (await get(id)).size = size;
    },
    remove: async (id) => {
      await get(id);
      processes.remove(id);
    },
  };
}

function filesOf({ machine, onSync, changes, brokenUploads }: TestGuestOptions): GuestFiles {
  const stat = async (path: string, signal: AbortSignal): Promise<FileEntry> => {
    const { files } = machine();
    await Promise.resolve();
    signal.throwIfAborted();
    const name = path.split("/").at(-1) ?? "";
    const file = files.get(path);
    const owned = { modifiedMs: 0, owner: "sandbox", group: "sandbox" };
    if (file !== undefined) return { name, path, kind: "file", size: file.size, mode: file.mode, ...owned };
    const isDirectory = [...files.keys()].some((other) => other.startsWith(`${path === "/" ? "" : path}/`));
    if (isDirectory) return { name, path, kind: "directory", size: 4096, mode: 0o755, ...owned };
    throw new SandboxError("not_found", `${path} does not exist`, { resource: "file", id: path });
  };
  return {
    read: async (path, range, signal) => {
      const entry = await stat(path, signal);
      const chunks = partOf(machine().files.get(path)?.chunks ?? [], range);
      return { entry, content: contentOf(chunks, signal) };
    },
    write: async (path, content, options, signal) => {
      const { files } = machine();
      const chunks: Uint8Array[] = [];
      let bytes = 0;
      try {
        for await (const chunk of content) {
          signal.throwIfAborted();
          if (path.startsWith("/full/")) throw new SandboxError("quota_exceeded", `no space left for ${path}`);
          bytes += chunk.length;
          // Tests with large bodies need the size alone.
          if (!path.startsWith("/sink/")) chunks.push(Uint8Array.from(chunk));
        }
      } catch (error) {
        brokenUploads.push(path);
        throw error;
      }
      files.set(path, { chunks, size: bytes, mode: options.mode ?? 0o644 });
      return bytes;
    },
    stat: (path, _options, signal) => stat(path, signal),
    list: async (path, signal) => {
      const directory = await stat(path, signal);
      if (directory.kind !== "directory") throw new SandboxError("invalid_argument", `${path} is not a directory`);
      const below = path === "/" ? "/" : `${path}/`;
      const names = [...machine().files.keys()]
        .filter((file) => file.startsWith(below))
        .map((file) => file.slice(below.length).split("/")[0] ?? "")
        .filter((name) => name !== "");
      return Promise.all([...new Set(names)].map((name) => stat(below + name, signal)));
    },
    makeDirectory: async (path) => {
      await Promise.resolve();
      machine().files.set(`${path}/`, { chunks: [], size: 0, mode: 0o755 });
    },
    remove: async (path) => {
      await Promise.resolve();
      const { files } = machine();
      for (const file of files.keys()) if (file === path || file.startsWith(`${path}/`)) files.delete(file);
    },
    rename: async (from, to) => {
      await Promise.resolve();
      const { files } = machine();
      const file = files.get(from);
      if (file === undefined) {
        throw new SandboxError("not_found", `${from} does not exist`, { resource: "file", id: from });
      }
      files.set(to, file);
      files.delete(from);
    },
    setAttributes: async (path, { mode }, signal) => {
      const { files } = machine();
      const file = files.get(path);
      if (file !== undefined && mode !== undefined) files.set(path, { ...file, mode });
      return await stat(path, signal);
    },
    watch: async (path, _options, signal) => {
      await stat(path, signal);
      return changesOf(changes.get(path) ?? [], signal);
    },
    sync: async (signal) => {
      machine();
      await onSync(signal);
    },
  };
}

async function* contentOf(chunks: readonly (Uint8Array | Error)[], signal: AbortSignal): AsyncGenerator<Uint8Array> {
  for (const chunk of chunks) {
    await Promise.resolve();
    signal.throwIfAborted();
    if (chunk instanceof Error) throw chunk;
    yield chunk;
  }
}

async function* changesOf(
  changes: readonly (readonly FileChange[])[],
  signal: AbortSignal,
): AsyncGenerator<readonly FileChange[]> {
  yield* changes;
  await sleep(2 ** 30, undefined, { signal, ref: false });
}

function partOf(
  chunks: readonly (Uint8Array | Error)[],
  { offset, length }: ByteRange,
): readonly (Uint8Array | Error)[] {
  if (offset === undefined && length === undefined) return chunks;
  const bytes = Buffer.concat(chunks.filter((chunk) => chunk instanceof Uint8Array));
  return [bytes.subarray(offset ?? 0, (offset ?? 0) + (length || bytes.length))];
}

function portsOf({ machine, opened }: TestGuestOptions): GuestPorts {
  return {
    open: async (port, signal) => {
      machine();
      opened.push(port);
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
    },
  };
}
