import assert from "node:assert/strict";
import { link, mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { ContentChecks } from "./content-checks.ts";
import { type ContentRecord, recordContent } from "./content-record.ts";
import { IdleTime } from "../idle-time.ts";

interface Stand {
  readonly path: string;
  readonly record: ContentRecord;
  readonly logged: { readonly level: string; readonly message: string; readonly fields?: object | undefined }[];
  readonly log: (level: string, message: string, fields?: object) => void;
}

async function recordedFile(t: TestContext): Promise<Stand> {
  const directory = await mkdtemp(join(tmpdir(), "osb-checks-"));
  t.after(() => rm(directory, { recursive: true }));
  const path = join(directory, "base");
  await writeFile(path, Buffer.alloc(3 * 2 ** 20, "content that is not zero. "));
  await using file = await open(path);
  const record = await recordContent(file);
  const logged: Stand["logged"] = [];
  return { path, record, logged, log: (level, message, fields) => logged.push({ level, message, fields }) };
}

async function flipByte(path: string, at: number): Promise<void> {
  await using file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte[0]! ^= 1;
  await file.write(byte, 0, 1, at);
}

/** A byte that no use of the file compares. */
function unsampledByte({ sample, bytes }: ContentRecord): number {
  for (let at = 0; at < bytes; at += 4096) if (!sample.offsets.includes(at)) return at + 17;
  throw new Error("every page is sampled");
}

test("a flipped byte in a sampled page is found at the next use", async (t) => {
  const { path, record } = await recordedFile(t);
  const checks = new ContentChecks();
  assert.equal(await checks.check(path, record), "intact");
  await flipByte(path, record.sample.offsets[7] ?? 0);
  assert.equal(await checks.check(path, record), "damaged");
  assert.equal(checks.damageCount, 1);
});

test("a flipped byte elsewhere is found in idle time, and the file is refused from then on", async (t) => {
  const { path, record, logged, log } = await recordedFile(t);
  await flipByte(path, unsampledByte(record));
  const checks = new ContentChecks();
  assert.equal(await checks.check(path, record), "intact");
  await using _running = checks.runInBackground(new IdleTime(), log);
  await eventually("the damage is found", async () => (await checks.check(path, record)) === "damaged", {
    withinMs: 10_000,
  });
  await link(path, `${path}.link`);
  assert.equal(await checks.check(`${path}.link`, record), "damaged");
  assert.deepEqual(
    logged.map(({ level, fields }) => [level, (fields as { path: string }).path]),
    [["error", path]],
  );
});

test("nothing is read as a whole while a sandbox starts", async (t) => {
  const { path, record, logged, log } = await recordedFile(t);
  await flipByte(path, unsampledByte(record));
  const checks = new ContentChecks();
  const idle = new IdleTime();
  const busy = idle.markBusy();
  assert.equal(await checks.check(path, record), "intact");
  await using _running = checks.runInBackground(idle, log);
  await sleep(200);
  assert.equal(checks.damageCount, 0);
  busy[Symbol.dispose]();
  await eventually("the damage is found", () => checks.damageCount === 1, { withinMs: 10_000 });
  assert.equal(logged.length, 1);
});

test("an intact file stays intact after it was read as a whole", async (t) => {
  const { path, record, logged, log } = await recordedFile(t);
  const checks = new ContentChecks();
  assert.equal(await checks.check(path, record), "intact");
  await using _running = checks.runInBackground(new IdleTime(), log);
  // Three chunks with their pauses take 40 ms.
  await sleep(500);
  assert.equal(await checks.check(path, record), "intact");
  assert.deepEqual(logged, []);
});

test("a file that was removed is missing, even when it was never read as a whole", async (t) => {
  const { path, record, logged, log } = await recordedFile(t);
  const checks = new ContentChecks();
  assert.equal(await checks.check(path, record), "intact");
  await rm(path);
  {
    await using _running = checks.runInBackground(new IdleTime(), log);
    await sleep(100);
  }
  assert.equal(await checks.check(path, record), "missing");
  assert.deepEqual(logged, []);
});
