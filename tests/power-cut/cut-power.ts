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
  const [image, log, replayed] = [at("disk.raw"), at("log"), at("replayed.raw")];
  const mount = { mountpoint: at("mounted"), scratch: at("scratch") };
  await mkdir(mount.scratch);
  await writeFile(image, "");
  await truncate(image, trial.diskMib * 2 ** 20);
  await run(trial.fileSystem.make, ...trial.fileSystem.options, image);
  await run("cp", "--sparse=always", image, replayed);

  const promised: Promised<Fact>[] = [];
  {
    await using _disk = await mountDisk({ ...mount, image, log });
    await using server = await openServer(at("mounted"), trial.env);
    await trial.work(server.api, async (ask) => {
      const askedAt = (await stat(log)).size;
      const fact = await ask();
      promised.push({ fact, askedAt, answeredAt: (await stat(log)).size });
    });
  }
  const entries = await readLog(log);
  await requireWhole(log, entries, { image, replayed, copy: at("copy.raw") });

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

/** Requires that the log has every byte that has reached the disk. */
async function requireWhole(
  log: string,
  entries: readonly LogEntry[],
  files: { readonly image: string; readonly replayed: string; readonly copy: string },
): Promise<void> {
  await run("cp", "--sparse=always", files.replayed, files.copy);
  await replay(log, entries, files.copy);
  await run("cmp", files.image, files.copy);
  await rm(files.copy);
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
