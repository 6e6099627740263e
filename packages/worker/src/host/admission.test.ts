import assert from "node:assert/strict";
import { readFile, statfs } from "node:fs/promises";
import { test } from "node:test";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { Admission, admit, hostRoom, isShortOfMemory } from "./admission.ts";

const never = new AbortController().signal;

const roomy = { freeMemoryMib: 8192, freeDiskShare: 0.5 };

test("a host with room takes a machine", () => {
  admit(roomy, 1024);
  admit({ ...roomy, freeMemoryMib: 768 }, 1024);
});

test("a host without memory names what it has and what the machine needs", () => {
  assert.throws(
    () => admit({ ...roomy, freeMemoryMib: 767 }, 1024),
    (error) =>
      isSandboxError(error, "no_capacity") &&
      error.retryable &&
      error.details.resource === "memory" &&
      error.details.needMib === 768 &&
      error.details.freeMib === 767,
  );
});

test("a disk that is nearly full refuses new machines", () => {
  assert.throws(() => admit({ ...roomy, freeDiskShare: 0.04 }, 256), /96 % full/);
});

test("the free resources of this host are those that the kernel reports", async () => {
  const [{ bavail, blocks }, { freeMemoryMib, freeDiskShare }] = await Promise.all([statfs("/"), hostRoom("/")]);
  const available = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile("/proc/meminfo", "utf8"))?.[1];
  // Other processes allocate and write between the two readings.
  assert.ok(Math.abs(freeMemoryMib - Number(available) / 1024) < 1024, `${freeMemoryMib} MiB, ${available} kB`);
  assert.ok(Math.abs(freeDiskShare - bavail / blocks) < 0.02, `${freeDiskShare}`);
});

test("machines that start at the same time are not promised the same memory", async () => {
  const admission = new Admission(() => Promise.resolve({ freeMemoryMib: 3000, freeDiskShare: 1 }));
  // Each needs 768 MiB: half of its guest's memory, and 256 MiB of its own.
  const starts = await Promise.allSettled(Array.from({ length: 5 }, () => admission.admit(1024)));
  const admitted = starts.flatMap((start) => (start.status === "fulfilled" ? [start.value] : []));
  assert.equal(admitted.length, 3);
  await assert.rejects(admission.admit(1024), (error) => isSandboxError(error, "no_capacity"));
  admitted[0]?.[Symbol.dispose]();
  admitted[0]?.[Symbol.dispose]();
  using _ = await admission.admit(1024);
  await assert.rejects(admission.admit(1024), (error) => isSandboxError(error, "no_capacity"));
});

test("a machine waits until the host has memory, and smaller ones pass one that is still too large", async () => {
  let freeMemoryMib = 0;
  const admission = new Admission(() => Promise.resolve({ freeMemoryMib, freeDiskShare: 1 }));
  const granted: string[] = [];
  const wait = async (name: string, memoryMib: number): Promise<Disposable> => {
    const promise = await admission.admitLater(memoryMib, never);
    granted.push(name);
    return promise;
  };
  const large = wait("large", 4096);
  const first = wait("first", 1024);
  const second = wait("second", 1024);
  freeMemoryMib = 800;
  using _first = await first;
  assert.deepEqual(granted, ["first"]);
  // A newcomer does not take memory that others wait for.
  await assert.rejects(
    admission.admit(256),
    (error) => isShortOfMemory(error) && (error as Error).message.startsWith("2 machines wait"),
  );
  freeMemoryMib = 768 + 768 + 2304;
  using _large = await large;
  using _second = await second;
  assert.deepEqual(granted, ["first", "large", "second"]);
});

test("a wait for memory ends with its caller, and with no_capacity after 20 s", async (t) => {
  const admission = new Admission(() => Promise.resolve({ freeMemoryMib: 0, freeDiskShare: 1 }));
  const left = new AbortController();
  const aborted = admission.admitLater(1024, left.signal);
  left.abort(new SandboxError("canceled", "no longer needed"));
  await assert.rejects(aborted, { code: "canceled", message: "no longer needed" });
  const start = performance.now();
  const late = assert.rejects(admission.admitLater(1024, never), (error) => isShortOfMemory(error));
  t.mock.method(performance, "now", () => start + 20_001);
  await late;
});

test("a machine larger than the host is refused without a wait, and so is any machine when the disk is full", async () => {
  const room = { freeMemoryMib: 10, freeDiskShare: 1 };
  const admission = new Admission(() => Promise.resolve(room), 4096);
  await admission.requirePossible(4096);
  await assert.rejects(admission.requirePossible(16_384), (error) => isShortOfMemory(error));
  room.freeDiskShare = 0;
  await assert.rejects(admission.requirePossible(1024), /100 % full/);
});
