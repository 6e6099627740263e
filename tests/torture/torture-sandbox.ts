import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { newSnapshotId, type SandboxId, type SnapshotId } from "@opensandbox/wire/ids.ts";
import { startTestHost, type TestHost } from "../../packages/worker/src/testing/test-host.ts";
import { randomFrom, type Random } from "./random.ts";

const never = new AbortController().signal;

export interface Torture {
  readonly rounds: number;
  readonly seed: number;
  /** One of the images that ship. One with Git adds a writer of commits. */
  readonly image: string;
  /** Number of small files that are rewritten continuously. */
  readonly files: number;
  readonly say: (line: string) => void;
}

export interface TortureResult {
  /** One line for each failure, with the round and the operation; empty when everything held. */
  readonly failures: readonly string[];
  /** Number of runs of each operation. */
  readonly done: Readonly<Record<Operation, number>>;
  /** Durations of the pauses for checkpoints, in milliseconds. */
  readonly pausedMs: readonly number[];
  /** Acknowledged writes in the sandbox that lived through every operation. */
  readonly acknowledged: Acknowledged;
}

type Operation = "checkpoint" | "fork" | "sleep" | "restore";

/** The entries by writer: see guest/check.py. */
type Acknowledged = Readonly<Record<string, number>>;

interface Checkpoint {
  readonly snapshotId: SnapshotId;
  /** The entries that were acknowledged before the snapshot. */
  readonly known: Acknowledged;
}

/** The delay between two operations. */
const maxWritingMs = 10_000;

/** The number of checkpoints kept at a time. */
const maxCheckpoints = 3;

const home = "/home/sandbox/torture";

/** Bounds a check: on a crowded host, a guest that writes continuously needs minutes to read everything again. */
const checkTimeoutMs = 3_600_000;

/**
 * Takes checkpoints of a sandbox that writes continuously, forks it, hibernates it, wakes it and restores it, in an
 * order that `seed` decides. After each operation it checks that every acknowledged write is there.
 */
export async function tortureSandbox({ rounds, seed, image, files, say }: Torture): Promise<TortureResult> {
  await using host = await startTestHost();
  const random = randomFrom(seed);
  const failures: string[] = [];
  const done: Record<Operation, number> = { checkpoint: 0, fork: 0, sleep: 0, restore: 0 };
  const pausedMs: number[] = [];
  const checkpoints: Checkpoint[] = [];
  const from = { kind: "image", image } as const;
  const { id } = await host.start(from);
  await startWriters(host, id, files);
  let known: Acknowledged = {};

  for (let round = 1; round <= rounds; round += 1) {
    const operation = checkpoints.length === 0 ? "checkpoint" : choose(random);
    // Waits for a random time, so that the operation interrupts the writers at an arbitrary point.
    await new Promise((resolve) => setTimeout(resolve, random.below(maxWritingMs)));
    const since = performance.now();
    try {
      const found = await carryOut(operation);
      failures.push(...found.map((failure) => `round ${round}, ${operation}: ${failure}`));
    } catch (error) {
      // A failed round ends the run, because later rounds would fail for the same reason.
      failures.push(`round ${round}, ${operation}: ${String(error)}`);
      say(failures.at(-1) ?? "");
      break;
    }
    done[operation] += 1;
    const seconds = ((performance.now() - since) / 1000).toFixed(1);
    say(
      `round ${round} of ${rounds}: ${operation}, ${seconds} s, ${JSON.stringify(known)}, ${failures.length} failures`,
    );
  }
  return { failures, done, pausedMs, acknowledged: known };

  async function carryOut(operation: Operation): Promise<readonly string[]> {
    switch (operation) {
      case "checkpoint": {
        const before = await acknowledgedIn(host, id);
        const snapshotId = newSnapshotId();
        const captured = await host.worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, never);
        pausedMs.push(captured.pausedMs);
        checkpoints.push({ snapshotId, known: before });
        if (checkpoints.length > maxCheckpoints) {
          const [oldest] = checkpoints.splice(random.below(checkpoints.length), 1);
          if (oldest !== undefined) await host.worker.removeSnapshot(oldest.snapshotId);
        }
        return await checkIn(id, before);
      }
      case "fork": {
        const checkpoint = pick(checkpoints, random);
        const fork = await startFrom(checkpoint.snapshotId, "new");
        const found = await check(host, fork, { known: checkpoint.known, last: true });
        await host.worker.stopSandbox(fork);
        return found.failures;
      }
      case "sleep": {
        const before = await acknowledgedIn(host, id);
        const snapshotId = newSnapshotId();
        await host.worker.hibernateSandbox(id, snapshotId, never);
        await startFrom(snapshotId, "same");
        await host.worker.removeSnapshot(snapshotId);
        return await checkIn(id, before);
      }
      case "restore": {
        const checkpoint = pick(checkpoints, random);
        await host.worker.stopSandbox(id);
        await startFrom(checkpoint.snapshotId, "same");
        return await checkIn(id, checkpoint.known);
      }
    }
  }

  async function checkIn(where: SandboxId, before: Acknowledged): Promise<readonly string[]> {
    const found = await check(host, where, { known: before, last: false });
    known = found.acknowledged;
    return found.failures;
  }

  async function startFrom(snapshotId: SnapshotId, identity: "same" | "new"): Promise<SandboxId> {
    const source = { kind: "snapshot", snapshotId, identity } as const;
    const started = await host.start(source, identity === "same" ? { id } : {});
    if (started.restoredFrom !== "memory") throw new Error(`booted from the disks: ${started.restoredBecause}`);
    return started.id;
  }
}

function choose(random: Random): Operation {
  return pick(["checkpoint", "checkpoint", "fork", "fork", "fork", "sleep", "sleep", "sleep", "restore"], random);
}

function pick<Item>(items: readonly Item[], random: Random): Item {
  const item = items[random.below(items.length)];
  if (item === undefined) throw new Error("there is nothing to choose from");
  return item;
}

async function startWriters(host: TestHost, id: SandboxId, files: number): Promise<void> {
  const scripts = join(import.meta.dirname, "guest");
  for (const name of (await readdir(scripts)).filter((file) => file.endsWith(".py"))) {
    const content = await readFile(join(scripts, name));
    await host.worker.guest(id).files.write(`${home}/${name}`, once(content), {}, never);
  }
  const writers = ["write_sqlite.py", "write_blocks.py", `write_files.py ${files}`, "count.py"];
  if ((await host.shell(id, "command -v git || true")) !== "") writers.push("write_git.py");
  for (const writer of writers) {
    const name = writer.split(" ")[0];
    await host.shell(id, `cd ${home}; setsid nice -n 5 python3 ${writer} >/dev/shm/${name}.log 2>&1 &`);
  }
  // All writers have started.
  await host.shell(
    id,
    `cd ${home}; until [ -s sqlite.ledger ] && [ -s blocks.ledger ] && [ -s files.ledger ] && [ -e /dev/shm/counted ]; ` +
      "do sleep 0.2; done",
  );
}

async function* once(content: Uint8Array): AsyncGenerator<Uint8Array> {
  yield content;
}

async function acknowledgedIn(host: TestHost, id: SandboxId): Promise<Acknowledged> {
  const line = `cd ${home}; python3 -c 'import check, json; print(json.dumps(check.acknowledged()))'`;
  return JSON.parse(await host.shell(id, line)) as Acknowledged;
}

async function check(
  host: TestHost,
  id: SandboxId,
  request: { readonly known: Acknowledged; readonly last: boolean },
): Promise<{ readonly failures: readonly string[]; readonly acknowledged: Acknowledged }> {
  // The check reads every file and slows down the writers, which share the processor with it.
  const line = `cd ${home}; sudo nice -n -15 python3 check.py '${JSON.stringify(request)}'`;
  return JSON.parse(await host.shell(id, line, checkTimeoutMs)) as Awaited<ReturnType<typeof check>>;
}
