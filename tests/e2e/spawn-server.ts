import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, chown, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** A server in a process of its own, whose memory is nobody else's. */
export interface SpawnedServer extends AsyncDisposable {
  readonly process: ChildProcess;
  readonly url: string;
  readonly apiKey: string;
}

/** Makes a program run as another user, who has no rights beyond those of everybody. Needs root. */
export function asUser(id: number): readonly [string, ...string[]] {
  return ["setpriv", "--reuid", `${id}`, "--regid", `${id}`, "--clear-groups", "--no-new-privs"];
}

export interface SpawnOptions {
  /** Absent: this process's own user. */
  readonly user?: number | undefined;
  /** Options of Node itself, such as a preload. */
  readonly nodeOptions?: readonly string[];
}

/** Starts a server with a new data directory, and removes both when it is disposed. */
export async function spawnServer(
  env: Readonly<Record<string, string>>,
  { user, nodeOptions = [] }: SpawnOptions = {},
): Promise<SpawnedServer> {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "osb-server-"));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  await chmod(directory, 0o711);
  const serve = join(import.meta.dirname, "serve.ts");
  if (user !== undefined) await chown(directory, user, user);
  const [file, ...args] = [
    ...(user === undefined ? [] : asUser(user)),
    ...[process.execPath, "--disable-warning=ExperimentalWarning", ...nodeOptions, serve, directory],
  ] as [string, ...string[]];
  const child = spawn(file, args, {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...env },
  });
  undo.defer(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    await once(child, "exit");
  });
  const { value } = (await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next()) as {
    value?: string;
  };
  const started = JSON.parse(value ?? assert.fail("the server did not start")) as { url: string; apiKey: string };
  const owned = undo.move();
  return { process: child, ...started, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The memory that a process has, or the most that it has had since {@link forgetPeak}. */
export async function memoryBytes(pid: number | undefined, which: "now" | "peak"): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const kib = new RegExp(`^${which === "now" ? "VmRSS" : "VmHWM"}:\\s*(\\d+) kB$`, "m").exec(status)?.[1];
  return Number(kib) * 1024;
}

export async function forgetPeak(pid: number | undefined): Promise<void> {
  await writeFile(`/proc/${pid}/clear_refs`, "5");
}
