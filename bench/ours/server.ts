import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { within } from "@opensandbox/wire/testing/eventually.ts";

/** Resource use of the server's process since the previous query. */
export interface ProbeReport {
  /** The share of one processor that the server used. */
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
  /** Resource use since the call before. The loop's delay is measured from a call with `loop` to the next one. */
  probe(watches?: "loop" | "processor"): Promise<ProbeReport>;
  /** The last lines of the server's log. */
  log(): Promise<string>;
}

/** The fields of `up --json` that the benchmark reads. */
export interface ServerDescription {
  readonly url: string;
  readonly hypervisor: string;
  readonly hypervisorVersion: string;
  readonly accelerator: { readonly name: string; readonly reason: string };
  readonly network: { readonly mode: string };
}

const root = join(import.meta.dirname, "../..");

/**
 * Starts a server. `env` is added to the environment that every server of the benchmark has. @throws with the end of
 * its log when it does not start
 */
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
      async probe(watches = "processor") {
        child.send(watches);
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
      // In a process group of its own, so that Ctrl-C reaches the benchmark alone.
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

/** Kills a server that does not end in time: it has nothing to save, and its directory is removed. */
async function end(child: ChildProcess, exited: Promise<unknown>): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGTERM");
  await Promise.race([exited, sleep(10_000, undefined, { ref: false })]);
  if (child.exitCode === null && child.signalCode === null) {
    child.kill("SIGKILL");
    await within("the killed server ends", exited);
  }
}

/** The part of a journal entry that names the machine's sandbox. */
export interface JournalEntry {
  readonly machineId: string;
  readonly sandbox?: { readonly id: string };
  readonly machine?: object;
}

export async function journalOf({ dataDirectory }: OurServer): Promise<readonly JournalEntry[]> {
  const directory = join(dataDirectory, "journal");
  const entries: JournalEntry[] = [];
  for (const name of await readdir(directory).catch(() => [])) {
    // The entry is being replaced, or its machine has ended.
    const text = name.endsWith(".json") ? await readFile(join(directory, name), "utf8").catch(() => "") : "";
    if (text !== "") entries.push(JSON.parse(text) as JournalEntry);
  }
  return entries;
}

/** The machine directory and process of a running sandbox. */
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
