import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { within } from "@opensandbox/wire/testing/eventually.ts";

/** What the server's process tells of itself, since it was asked the last time. */
export interface ProbeReport {
  /** Of one processor. */
  readonly cpuPercent: number;
  readonly loopP99Ms: number;
  readonly loopMaxMs: number;
  readonly rssBytes: number;
}

/** A server as users run it, in a process of its own. Disposing it ends the process and its sandboxes. */
export interface OurServer extends AsyncDisposable {
  readonly url: string;
  readonly apiKey: string;
  readonly dataDirectory: string;
  readonly pid: number;
  readonly description: ServerDescription;
  probe(): Promise<ProbeReport>;
  /** The last lines of its log. */
  log(): Promise<string>;
}

/** What `up --json` prints, as far as the benchmark tells it. */
export interface ServerDescription {
  readonly url: string;
  readonly hypervisor: string;
  readonly hypervisorVersion: string;
  readonly accelerator: { readonly name: string; readonly reason: string };
  readonly network: { readonly mode: string };
}

const root = join(import.meta.dirname, "../..");

/** `env` beside what every server of the benchmark is given. Fails when it does not start, with its last words. */
export async function startOurServer(
  dataDirectory: string,
  env: Readonly<Record<string, string | undefined>>,
  signal: AbortSignal,
): Promise<OurServer> {
  await mkdir(dataDirectory, { recursive: true, mode: 0o711 });
  const apiKey = `osb_${randomHex(32)}`;
  const logFile = join(dataDirectory, "server.log");
  const child = start(logFile, {
    ...env,
    OPENSANDBOX_DATA_DIR: dataDirectory,
    OPENSANDBOX_API_KEY: apiKey,
    OPENSANDBOX_HOST: "127.0.0.1",
    OPENSANDBOX_PORT: "0",
    OPENSANDBOX_MAX_CAPACITY: "10000",
  });
  const exited = once(child, "exit");
  const log = async (): Promise<string> => (await readFile(logFile, "utf8")).trimEnd().split("\n").slice(-8).join("\n");
  try {
    const description = await firstLine(child, exited, log, signal);
    return {
      ...{ url: description.url, apiKey, dataDirectory, description, log, pid: child.pid ?? 0 },
      async probe() {
        child.send("report");
        const message = once(child, "message") as Promise<[ProbeReport]>;
        const [report] = await within("the server reports its processor time", message);
        return report;
      },
      [Symbol.asyncDispose]: () => end(child, exited),
    };
  } catch (error) {
    await end(child, exited);
    throw error;
  }
}

function start(logFile: string, env: Readonly<Record<string, string | undefined>>): ChildProcess {
  const log = openSync(logFile, "a", 0o600);
  try {
    return spawn(
      process.execPath,
      [
        ...["--disable-warning=ExperimentalWarning", "--import", join(root, "bench/server-probe.ts")],
        ...[join(root, "packages/cli/src/main.ts"), "up", "--json"],
      ],
      // Of its own group: a terminal's Ctrl-C is the benchmark's.
      { env, stdio: ["ignore", "pipe", log, "ipc"], detached: true },
    );
  } finally {
    closeSync(log);
  }
}

async function firstLine(
  child: ChildProcess,
  exited: Promise<unknown>,
  log: () => Promise<string>,
  signal: AbortSignal,
): Promise<ServerDescription> {
  const lines = createInterface({ input: child.stdout! });
  const [line] = (await Promise.race([
    once(lines, "line", { signal }),
    exited.then(async () => {
      throw new Error(`the server does not start: ${await log()}`);
    }),
  ])) as [string];
  return JSON.parse(line) as ServerDescription;
}

/** It has nothing to save; a server that takes its time is killed, and what it leaves is removed with its directory. */
async function end(child: ChildProcess, exited: Promise<unknown>): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGTERM");
  await Promise.race([exited, sleep(10_000, undefined, { ref: false })]);
  if (child.exitCode === null && child.signalCode === null) {
    child.kill("SIGKILL");
    await within("the killed server ends", exited);
  }
}

/** The part of a journal entry that says whose a machine is. */
export interface JournalEntry {
  readonly machineId: string;
  readonly sandbox?: { readonly id: string };
  readonly machine?: object;
}

export async function journalOf({ dataDirectory }: OurServer): Promise<readonly JournalEntry[]> {
  const directory = join(dataDirectory, "journal");
  const entries: JournalEntry[] = [];
  for (const name of await readdir(directory).catch(() => [])) {
    // One that is being replaced, or has gone meanwhile.
    const text = name.endsWith(".json") ? await readFile(join(directory, name), "utf8").catch(() => "") : "";
    if (text !== "") entries.push(JSON.parse(text) as JournalEntry);
  }
  return entries;
}

/** The machine's directory and process of a sandbox that runs. */
export async function machineOf(server: OurServer, sandboxId: string): Promise<{ directory: string; pid: number }> {
  const entry = (await journalOf(server)).find(({ sandbox }) => sandbox?.id === sandboxId);
  if (entry === undefined) throw new Error(`the journal has no entry for ${sandboxId}`);
  const directory = join(server.dataDirectory, "machines", entry.machineId);
  const [pid] = await processesOf(directory);
  if (pid === undefined) throw new Error(`${sandboxId} has no process`);
  return { directory, pid };
}

/** Processes whose command line names a path below the directory. */
export async function processesOf(directory: string): Promise<readonly number[]> {
  const found: number[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const line = await readFile(`/proc/${entry}/cmdline`, "utf8").catch(() => "");
    if (line.includes(`${directory}/`)) found.push(Number(entry));
  }
  return found;
}
