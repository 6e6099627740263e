import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { killProcessesOf } from "../../packages/worker/src/host/kill-by-path.ts";
import { Random } from "../../packages/worker/src/testing/hostile/random.ts";
import { type SpawnedServer, spawnServerOn } from "../e2e/spawn-server.ts";
import { cutsOf, type Facts, factsAt, type Promised, spread } from "./cuts.ts";
import { mountDisk, run } from "./mounted-disk.ts";
import { type LogEntry, readLog, replay } from "./write-log.ts";

const seed = Number(process.env["OPENSANDBOX_TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

/** How many cuts are tried, or `all`; see `./test --help`. */
const wantedCuts = process.env["OPENSANDBOX_TEST_POWER_CUTS"];

/** The deadline of one trial in milliseconds: that of every test, unless all cuts are tried. */
export const trialTimeout = wantedCuts === "all" ? { timeout: 3 * 3_600_000 } : {};

const apiKey = "osb_power_cut";

export const fileSystems = [
  { name: "ext4", make: "mkfs.ext4", options: ["-q", "-F"] },
  { name: "XFS", make: "mkfs.xfs", options: ["-q"] },
] as const;

export interface Trial<Fact> {
  readonly fileSystem: (typeof fileSystems)[number];
  /** Size of the disk; XFS takes no less than 300 MiB. */
  readonly diskMib: number;
  /** The server's environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Number of cuts by default, spread over the work. */
  readonly cuts: number;
  /** What a client does before the power fails. */
  work(api: Api, promise: (ask: () => Promise<Fact>) => Promise<void>): Promise<void>;
  /** Requires of a server on the disk after a cut what it must have kept. `dataDirectory` is the server's. */
  check(api: Api, facts: Facts<Fact>, dataDirectory: string): Promise<void>;
}

/** Requests to a server. */
export interface Api {
  ask(method: string, path: string, body?: unknown): Promise<Response>;
  /** The reply to a request that must succeed. */
  must(method: string, path: string, body?: unknown): Promise<Record<string, unknown>>;
}

/**
 * Works with a server whose data directory lies on a disk of its own, records every write and flush of the disk, and
 * starts the server again on what the disk has kept after power cuts.
 */
export async function cutPower<Fact>(t: TestContext, trial: Trial<Fact>): Promise<void> {
  t.diagnostic(`OPENSANDBOX_TEST_SEED=${seed}`);
  const directory = await mkdtemp(join(tmpdir(), "osb-cut-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  await run("chmod", "711", directory);
  const at = (name: string): string => join(directory, name);
  const [log, replayed] = [at("log"), at("replayed.raw")];
  const mount = { mountpoint: at("mounted"), scratch: at("scratch") };
  await mkdir(mount.scratch);
  const { entries, promised } = await record(t, trial, { ...mount, image: at("disk.raw"), log, replayed });

  const random = new Random(seed);
  const possible = cutsOf(entries, random);
  // The start of a server on an empty disk has many flushes, and nothing to lose.
  const since = promised[0]?.askedAt ?? 0;
  const atWork = possible.filter(({ until }) => until > since);
  const chosen = wantedCuts === "all" ? possible : spread(atWork, Number(wantedCuts ?? trial.cuts), random);
  t.diagnostic(
    `${chosen.length} of ${possible.length} power cuts; the disk has ${entries.length} writes and flushes, ` +
      `and clients ${promised.length} answers`,
  );
  let done = 0;
  for (const cut of chosen) {
    await replay(log, entries.slice(done, cut.flushed + 1), replayed);
    done = cut.flushed + 1;
    const survivors = cut.survivors.flatMap((index) => entries[index] ?? []);
    await using _disk = await mountDisk({
      ...{ ...mount, image: replayed },
      prepare: (disk) => replay(log, survivors, disk),
    });
    const facts = factsAt(promised, cut);
    t.diagnostic(`${cut.name}: ${facts.kept.length} answers to keep, ${facts.open.length} open`);
    const logged: string[] = [];
    try {
      await using server = await openServer(at("mounted"), trial.env, (line) => logged.push(line));
      await trial.check(server.api, facts, at("mounted/data"));
    } catch (cause) {
      throw new Error(`${cut.name}: ${String(cause)}\n${JSON.stringify(facts)}\n${logged.join("\n")}`, { cause });
    }
  }
}

/** Recordings that may fail before the trial does. */
const maxRecordings = 3;

interface RecordingFiles {
  readonly image: string;
  readonly log: string;
  /** Becomes a copy of the disk before the work. */
  readonly replayed: string;
  readonly mountpoint: string;
  readonly scratch: string;
}

interface Recording<Fact> {
  readonly entries: readonly LogEntry[];
  readonly promised: readonly Promised<Fact>[];
}

/**
 * Does the work of a trial and records it. The loop device serves each cgroup of the host by a worker of its own, so a
 * machine and the server may meet in the daemon, which then mixes up their bytes (see {@link mountDisk}): the log differs
 * from the disk, and the recording is made again.
 */
async function record<Fact>(t: TestContext, trial: Trial<Fact>, files: RecordingFiles): Promise<Recording<Fact>> {
  for (let attempt = 1; ; attempt += 1) {
    await writeFile(files.image, "");
    await truncate(files.image, trial.diskMib * 2 ** 20);
    await run(trial.fileSystem.make, ...trial.fileSystem.options, files.image);
    await run("cp", "--sparse=always", files.image, files.replayed);
    const promised: Promised<Fact>[] = [];
    const failure = await workOn(trial, files, promised).then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    const entries = await readLog(files.log);
    const isWhole = await hasEveryByte(entries, files);
    if (isWhole && failure === undefined) return { entries, promised };
    if (isWhole) throw failure?.error;
    if (attempt === maxRecordings) {
      throw new Error(`${attempt} recordings in a row differ from their disks`, { cause: failure?.error });
    }
    t.diagnostic("the recording differs from the disk, and is made again");
  }
}

async function workOn<Fact>(trial: Trial<Fact>, files: RecordingFiles, promised: Promised<Fact>[]): Promise<void> {
  await using _disk = await mountDisk(files);
  await using server = await openServer(files.mountpoint, trial.env);
  await trial.work(server.api, async (ask) => {
    const askedAt = (await stat(files.log)).size;
    const fact = await ask();
    promised.push({ fact, askedAt, answeredAt: (await stat(files.log)).size });
  });
}

/** Whether the log has every byte that has reached the disk. */
async function hasEveryByte(entries: readonly LogEntry[], { image, log, replayed }: RecordingFiles): Promise<boolean> {
  const copy = `${image}.copy`;
  await run("cp", "--sparse=always", replayed, copy);
  await replay(log, entries, copy);
  try {
    await run("cmp", image, copy);
    return true;
  } catch (error) {
    // cmp(1): 1 is a difference, everything else a failure.
    if ((error as { readonly code?: unknown }).code === 1) return false;
    throw error;
  } finally {
    await rm(copy);
  }
}

/** A server, which is killed when it is disposed, together with everything that it has started. */
async function openServer(
  mountpoint: string,
  env: Readonly<Record<string, string>>,
  onLog: (line: string) => void = () => undefined,
): Promise<AsyncDisposable & { readonly api: Api }> {
  const server = await spawnServerOn(join(mountpoint, "data"), {
    env: { ...env, OPENSANDBOX_API_KEY: apiKey },
    ...{ stays: true, onLog },
  });
  return {
    api: apiOf(server),
    async [Symbol.asyncDispose]() {
      const exit = once(server.process, "exit");
      server.process.kill("SIGKILL");
      await exit;
      await killProcessesOf(mountpoint);
      await killProcessesOf(mountpoint, "environ");
    },
  };
}

function apiOf({ url }: SpawnedServer): Api {
  const ask: Api["ask"] = async (method, path, body) =>
    await fetch(url + path, {
      method,
      headers: { "x-api-key": apiKey },
      // A machine boots in minutes on a crowded host without KVM.
      signal: AbortSignal.timeout(300_000),
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
  return {
    ask,
    async must(method, path, body) {
      const response = await ask(method, path, body);
      const text = await response.text();
      assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
      return text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
    },
  };
}
