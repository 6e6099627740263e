import assert from "node:assert/strict";
import { readFile, statfs } from "node:fs/promises";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { Admission, admit, hostRoom } from "./admission.ts";

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
