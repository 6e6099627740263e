import assert from "node:assert/strict";
import { readFile, statfs } from "node:fs/promises";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { admit, hostRoom } from "./admission.ts";

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
