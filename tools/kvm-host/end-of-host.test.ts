import assert from "node:assert/strict";
import { test } from "node:test";
import { endOfHost } from "./end-of-host.ts";

const boot = "[    0.000000] Linux version 6.12\n".repeat(500);

test("a KVM host whose kernel fails is reported with the first line of the failure, what came before it, and everything after it", () => {
  const report =
    "[ 2296.399] BUG: TASK stack guard page was hit at 00000000c5 (stack is 0000000010..0000000020)\n" +
    "[ 2296.400] Oops: stack guard page: 0000 [#1] PREEMPT SMP NOPTI\n" +
    "[ 2296.401] Kernel panic - not syncing: Fatal exception in interrupt\n";
  const { message, isKernelFailure, excerpt } = endOfHost(boot + report, undefined);
  assert.ok(isKernelFailure);
  assert.equal(
    message,
    "the kernel of the KVM host has failed: BUG: TASK stack guard page was hit at 00000000c5 (stack is 0000000010..0000000020)",
  );
  assert.equal(excerpt, boot.slice(-4000) + report);
  const fault = "[   12.5] general protection fault, probably for address 0x1: 0000 [#1] SMP\n";
  assert.match(endOfHost(boot + fault, undefined).message, /has failed: general protection fault/);
});

test("a KVM host that is stopped, or ends, without a failure of its kernel is reported with the end of its console", () => {
  const stopped = endOfHost(boot, "it did not end within 40 min");
  assert.equal(stopped.message, "the KVM host was stopped: it did not end within 40 min");
  assert.ok(!stopped.isKernelFailure);
  assert.equal(stopped.excerpt, boot.slice(-4000));
  assert.match(endOfHost("", undefined).message, /ended without the result of its test runner/);
});

test("the report of an overflowed stack keeps its start and its end", () => {
  const frame = "[ 562.658]  asm_exc_page_fault+0x26/0x30\n";
  const report = `[ 562.658] BUG: TASK stack guard page was hit\n${frame.repeat(1000)}[ 562.659] Kernel panic\n`;
  const { excerpt } = endOfHost(boot + report, undefined);
  assert.ok(excerpt.startsWith(`${boot.slice(-4000)}[ 562.658] BUG`));
  assert.ok(excerpt.endsWith(`\n...\n${report.slice(-8000)}`));
});
