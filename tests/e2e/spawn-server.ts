import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, chown, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { within } from "@opensandbox/wire/testing/eventually.ts";

/** A server in a process of its own. Disposing it ends the process, and its sandboxes unless they stay. */
export interface SpawnedServer extends AsyncDisposable {
  readonly process: ChildProcess;
  readonly url: string;
  readonly apiKey: string;
}

export interface SpawnOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Absent: this process's own user. */
  readonly user?: number | undefined;
  /** Options of Node itself, such as a preload. */
  readonly nodeOptions?: readonly string[];
  /** The sandboxes outlive the server. Without it the server deletes them when it ends. */
  readonly stays?: boolean;
  /** Hides the log and the errors of the server. */
  readonly quiet?: boolean;
  /** Receives each line of the log, which is not shown then. */
  readonly onLog?: (line: string) => void;
}

/** A server starts in seconds, or in minutes on a crowded host without KVM. */
const startWithinMs = 300_000;
/** A server hibernates or deletes its sandboxes before it ends. */
const endWithinMs = 300_000;

/** Arguments before a program that run it as another user, without groups and privileges. Needs root. */
export function asUser(id: number): readonly [string, ...string[]] {
  return ["setpriv", "--reuid", `${id}`, "--regid", `${id}`, "--clear-groups", "--no-new-privs"];
}

/** Starts a server with a new data directory, which is removed when the server is disposed. */
export async function spawnServer(options: SpawnOptions = {}): Promise<SpawnedServer> {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "osb-server-"));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  await chmod(directory, 0o711);
  if (options.user !== undefined) await chown(directory, options.user, options.user);
  const server = undo.use(await spawnServerOn(directory, options));
  const owned = undo.move();
  return { ...server, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Starts a server with a data directory that the caller owns. */
export async function spawnServerOn(
  dataDirectory: string,
  { env = {}, user, nodeOptions = [], stays = false, quiet = false, onLog }: SpawnOptions = {},
): Promise<SpawnedServer> {
  const serve = join(import.meta.dirname, "serve.ts");
  const [file, ...args] = [
    ...(user === undefined ? [] : asUser(user)),
    ...[process.execPath, "--disable-warning=ExperimentalWarning", ...nodeOptions, serve, dataDirectory],
    ...(stays ? ["stays"] : []),
  ] as [string, ...string[]];
  const child = spawn(file, args, {
    stdio: ["ignore", "pipe", onLog !== undefined ? "pipe" : quiet ? "ignore" : "inherit"],
    env: { ...process.env, ...env },
  });
  if (onLog !== undefined && child.stderr !== null) createInterface({ input: child.stderr }).on("line", onLog);
  const server = { process: child, [Symbol.asyncDispose]: async () => void (await endServer(child, "SIGTERM")) };
  await using undo = new AsyncDisposableStack();
  undo.use(server);
  const lines = createInterface({ input: child.stdout ?? assert.fail("the server has no standard output") });
  const firstLine = lines[Symbol.asyncIterator]().next() as Promise<{ value?: string }>;
  const { value } = await within("the server prints its address", firstLine, startWithinMs);
  const started = JSON.parse(value ?? assert.fail("the server did not start")) as { url: string; apiKey: string };
  undo.move();
  return { ...server, ...started };
}

/** Returns the exit code, null when a signal ended the process. */
export async function endServer(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  const exit = once(child, "exit") as Promise<[number | null]>;
  child.kill(signal);
  const [code] = await within(`the server ends after ${signal}`, exit, endWithinMs);
  return code;
}

/** The current memory of a process, or its peak since {@link forgetPeak}. */
export async function memoryBytes(pid: number | undefined, which: "now" | "peak"): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const kib = new RegExp(`^${which === "now" ? "VmRSS" : "VmHWM"}:\\s*(\\d+) kB$`, "m").exec(status)?.[1];
  return Number(kib) * 1024;
}

export async function forgetPeak(pid: number | undefined): Promise<void> {
  await writeFile(`/proc/${pid}/clear_refs`, "5");
}
