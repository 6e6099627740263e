import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { mkdtemp, open, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { getRawPointer } from "#host/kernel/ffi.ts";
import type { GuestMemory, MemoryRegion } from "#hypervisor/guest-memory.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { pageBytes } from "./delta.ts";
import { MemoryThreads, type StoredDelta } from "./memory-threads.ts";

const mib = 2 ** 20;

/** Memory of this process that stands for that of a guest. */
interface Region {
  readonly bytes: Buffer;
  readonly region: MemoryRegion;
}

function region(size: number, kind: "boot" | "hotplugged" = "boot"): Region {
  const whole = Buffer.allocUnsafeSlow(size + pageBytes);
  const address = Number(getRawPointer(whole));
  const skipped = (pageBytes - (address % pageBytes)) % pageBytes;
  const start = address + skipped;
  return {
    bytes: whole.subarray(skipped, skipped + size),
    region: { start, bytes: size, ...(kind === "hotplugged" ? { hotplugged: true } : {}) },
  };
}

function guest(...regions: readonly Region[]): GuestMemory {
  return { pid: process.pid, regions: regions.map((each) => each.region) };
}

/** Pages of random bytes and pages of zeros, in turn. Of the rest of the region no page exists. */
function change({ bytes }: Region, size: number): void {
  bytes.fill(0, 0, size);
  for (let at = 0; at < size; at += 3 * pageBytes) randomFillSync(bytes, at, Math.min(2 * pageBytes, size - at));
}

async function scratch(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-memory-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

async function captured(
  threads: MemoryThreads,
  memory: GuestMemory,
  file: string,
  hold: boolean,
): Promise<StoredDelta> {
  using turn = await threads.captureTurn();
  const capture = turn.capture({ memory, file, hold });
  assert.ok((await capture.copied) > 0);
  return await capture.stored;
}

async function restore(threads: MemoryThreads, file: string, sha256: string, memory: GuestMemory): Promise<void> {
  const bytes = memory.regions.reduce((sum, each) => sum + each.bytes, 0);
  using delta = await threads.load(file, sha256, bytes);
  await delta.apply(memory);
}

for (const [name, changed, hold] of [
  ["small", 8, true],
  ["large", 72, true],
  ["large, copied and written at once,", 72, false],
] as const) {
  test(`a ${name} delta brings all changed pages into another process`, async (t) => {
    const directory = await scratch(t);
    await using threads = new MemoryThreads();
    const [boot, hotplugged] = [region(80 * mib), region(80 * mib, "hotplugged")];
    change(boot, (changed * mib) / 2);
    change(hotplugged, (changed * mib) / 2);
    const file = join(directory, "delta");
    const { bytes, sha256, chunked } = await captured(threads, guest(boot, hotplugged), file, hold);
    assert.equal(chunked, changed === 8 ? undefined : true);
    assert.equal((await stat(file)).size, bytes);
    assert.ok(bytes < changed * mib, "zero pages are not stored");

    const others = [region(80 * mib), region(80 * mib, "hotplugged")] as const;
    // The base of the boot memory has other content; hotplugged memory starts as zeros.
    others[0].bytes.fill(1, 0, (changed * mib) / 2);
    await restore(threads, file, sha256, guest(...others));
    for (const [index, each] of [boot, hotplugged].entries()) {
      const length = (changed * mib) / 2;
      assert.equal(each.bytes.compare(others[index]!.bytes, 0, length, 0, length), 0, `region ${index}`);
    }
  });
}

test("a large delta is written into a copy of its base", async (t) => {
  const directory = await scratch(t);
  await using threads = new MemoryThreads();
  const boot = region(80 * mib);
  change(boot, 72 * mib);
  const path = join(directory, "delta");
  const delta = await captured(threads, guest(boot), path, true);
  const image = join(directory, "image");
  await writeFile(image, Buffer.alloc(pageBytes, 1));
  await truncate(image, 80 * mib);
  await threads.overwrite({ ...delta, path }, image, 80 * mib);
  await using file = await open(image);
  const found = Buffer.alloc(72 * mib);
  await file.read(found, 0, found.length, 0);
  assert.equal(found.compare(boot.bytes, 0, found.length), 0);
});

test("a large delta with one changed byte anywhere is refused, whichever thread reads it", async (t) => {
  const directory = await scratch(t);
  await using threads = new MemoryThreads();
  const boot = region(80 * mib);
  change(boot, 72 * mib);
  const file = join(directory, "delta");
  const { bytes, sha256 } = await captured(threads, guest(boot), file, true);
  await threads.verifyChunks(file, sha256);
  const other = region(80 * mib);
  const tail = 200;
  const places = [
    0,
    bytes / 2,
    bytes - tail,
    bytes - 1,
    bytes - 24,
    ...Array.from({ length: 2 }, () => bytes * Math.random()),
  ];
  for (const place of places.map(Math.floor)) {
    await flip(file, place);
    const isDamaged = (error: unknown): boolean =>
      isSandboxError(error, "incompatible") && error.details.reason === "damaged";
    await assert.rejects(restore(threads, file, sha256, guest(other)), isDamaged, `byte ${place}`);
    await assert.rejects(threads.verifyChunks(file, sha256), isDamaged, `byte ${place}`);
    await flip(file, place);
  }
  await threads.verifyChunks(file, sha256);
});

test("a capture of a machine that has ended fails, and the next capture works", async (t) => {
  const directory = await scratch(t);
  await using threads = new MemoryThreads();
  const boot = region(80 * mib);
  change(boot, 72 * mib);
  // Beyond the highest number of a process, proc_sys_kernel(5).
  const ended = { ...guest(boot), pid: 2 ** 22 + 1 };
  await assert.rejects(captured(threads, ended, join(directory, "first"), true));
  const { chunked } = await captured(threads, guest(boot), join(directory, "second"), true);
  assert.equal(chunked, true);
});

async function flip(path: string, at: number): Promise<void> {
  await using file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte[0]! ^= 1;
  await file.write(byte, 0, 1, at);
}
