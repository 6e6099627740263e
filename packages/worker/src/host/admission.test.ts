import assert from "node:assert/strict";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { admit, hostRoom } from "./admission.ts";

const roomy = { freeMemoryMib: 8192, freeDiskShare: 0.5 };

test("a host with room takes a machine", () => {
  admit(roomy, 1024);
  admit({ ...roomy, freeMemoryMib: 768 }, 1024);
});

test("a host without memory says what it has and what is needed", () => {
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

test("a disk that is nearly full takes nothing new", () => {
  assert.throws(() => admit({ ...roomy, freeDiskShare: 0.04 }, 256), /96 % full/);
});

test("what this host has is known", async () => {
  const { freeMemoryMib, freeDiskShare } = await hostRoom("/");
  assert.ok(freeMemoryMib > 0);
  assert.ok(freeDiskShare > 0 && freeDiskShare <= 1);
});
