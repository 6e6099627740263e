import assert from "node:assert/strict";
import { test } from "node:test";
import { type EndedQemu, endOfHost } from "./end-of-host.ts";

const boot = "[    0.000000] Linux version 6.12\n".repeat(500);

/** A machine that powers off, and one that must not reboot, ends its QEMU like this. */
const poweredOff: EndedQemu = { code: 0, signal: null, stderr: "", log: "CPU Reset (CPU 0)\n" };

test("a KVM host whose kernel fails is reported with the first line of the failure, what came before it, and everything after it", () => {
  const report =
    "[ 2296.399] BUG: TASK stack guard page was hit at 00000000c5 (stack is 0000000010..0000000020)\n" +
    "[ 2296.400] Oops: stack guard page: 0000 [#1] PREEMPT SMP NOPTI\n" +
    "[ 2296.401] Kernel panic - not syncing: Fatal exception in interrupt\n";
  const { message, cause, excerpt } = endOfHost(boot + report, poweredOff);
  assert.equal(cause, "kernel");
  assert.equal(
    message,
    "the kernel of the KVM host has failed: BUG: TASK stack guard page was hit at 00000000c5 (stack is 0000000010..0000000020)",
  );
  assert.equal(excerpt, boot.slice(-4000) + report);
  const fault = "[   12.5] general protection fault, probably for address 0x1: 0000 [#1] SMP\n";
  assert.match(endOfHost(boot + fault, poweredOff).message, /has failed: general protection fault/);
});

test("a kernel that failed before its host was stopped is the cause of the end", () => {
  const stopped = { ...poweredOff, code: null, signal: "SIGKILL", stopped: "it did not end within 40 min" };
  assert.equal(endOfHost(`${boot}[ 12.5] Kernel panic - not syncing\n`, stopped).cause, "kernel");
});

test("a KVM host that is stopped is reported with the reason and the end of its console", () => {
  const stopped = { ...poweredOff, code: null, signal: "SIGKILL", stopped: "it did not end within 40 min" };
  const { message, cause, excerpt } = endOfHost(boot, stopped);
  assert.equal(message, "the KVM host was stopped: it did not end within 40 min");
  assert.equal(cause, "stopped");
  assert.equal(excerpt, boot.slice(-4000));
});

test("a KVM host that ends by itself is reported with the end of its QEMU", () => {
  const { message, cause } = endOfHost(boot, poweredOff);
  assert.equal(cause, "qemu");
  assert.equal(message, "the KVM host ended without the result of its test runner: QEMU ended with exit code 0");
  const assertion = "hw/pci/msix.c:228: msix_table_mmio_write: Assertion failed.";
  const aborted = endOfHost(boot, { ...poweredOff, code: null, signal: "SIGABRT", stderr: `warning\n${assertion}\n` });
  assert.equal(aborted.cause, "qemu");
  assert.match(aborted.message, /: QEMU ended by SIGABRT: hw\/pci\/msix\.c:228: .* Assertion failed\.$/);
  assert.equal(aborted.excerpt, `${boot.slice(-4000)}\nQEMU's standard error:\nwarning\n${assertion}\n`);
});

test("a triple fault, of which Linux reports nothing, is reported with the processor's registers", () => {
  const log = `${poweredOff.log}Triple fault\nCPU Reset (CPU 1)\nRIP=ffffffff81000000\n`;
  const { message, excerpt } = endOfHost(boot, { ...poweredOff, log });
  assert.match(message, /: QEMU ended with exit code 0 after a triple fault$/);
  assert.equal(excerpt, `${boot.slice(-4000)}\nQEMU's log:\n${log}`);
});

test("the report of an overflowed stack keeps its start and its end", () => {
  const frame = "[ 562.658]  asm_exc_page_fault+0x26/0x30\n";
  const report = `[ 562.658] BUG: TASK stack guard page was hit\n${frame.repeat(1000)}[ 562.659] Kernel panic\n`;
  const { excerpt } = endOfHost(boot + report, poweredOff);
  assert.ok(excerpt.startsWith(`${boot.slice(-4000)}[ 562.658] BUG`));
  assert.ok(excerpt.endsWith(`\n...\n${report.slice(-8000)}`));
});
