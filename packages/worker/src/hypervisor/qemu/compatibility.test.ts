import assert from "node:assert/strict";
import { test } from "node:test";
import type { VmSpec } from "../hypervisor.ts";
import type { QemuHost } from "./command-line.ts";
import { compatibilityOf, describeDifference } from "./compatibility.ts";

const spec: VmSpec = {
  directory: "/data/machines/m-00000001",
  ...{ vcpus: 1, memoryMib: 1024, hotplugMib: 0 },
  ...{ memoryBase: "/memory", kernel: "/kernel", initramfs: "/initramfs" },
  bootArguments: ["console=ttyS0"],
  disks: [],
  network: { kind: "none" },
};
const milan = "AMD EPYC 7763; 1; fpu sse2 avx2";
const genoa = "AMD EPYC 9654; 1; fpu sse2 avx2 avx512f";
type Host = QemuHost & { readonly version: string };
const tcg: Host = { program: "qemu", version: "10.0.2", accelerator: "tcg", processor: "" };
const host: Host = { ...tcg, accelerator: "kvm", kvmAccess: { by: "descriptor" }, processor: milan };

function difference(captured: Host, offered: Host): string {
  return describeDifference(compatibilityOf(spec, captured), compatibilityOf(spec, offered));
}

test("with the host's own processor a snapshot restores only where the processor is equal", () => {
  const newer = { ...host, processor: genoa };
  assert.notEqual(compatibilityOf(spec, host), compatibilityOf(spec, newer));
  assert.equal(
    difference(newer, host),
    "its guest sees the processor of its host (AMD EPYC 9654), and this host has another (AMD EPYC 7763, which lacks avx512f). Set OPENSANDBOX_CPU_MODEL to one model on all hosts before the snapshots are taken",
  );
});

test("with a processor model a snapshot restores on every host that has the model", () => {
  const model = { ...host, processor: "", cpuModel: "EPYC-Rome" };
  assert.equal(compatibilityOf(spec, model), compatibilityOf(spec, { ...model, kvmAccess: { by: "user" } }));
  assert.equal(
    difference(model, { ...model, cpuModel: "EPYC-Naples" }),
    "its guest has the processor model EPYC-Rome, and guests of this host have EPYC-Naples. A server with OPENSANDBOX_CPU_MODEL=EPYC-Rome restores it",
  );
  assert.match(difference(host, model), /has the processor model host, and guests of this host have EPYC-Rome/);
});

test("another accelerator, another QEMU and another shape are named", () => {
  assert.equal(difference(tcg, host), "it was captured under tcg, and this host's machines run under kvm");
  assert.equal(
    difference(tcg, { ...tcg, version: "10.1.0" }),
    "it was captured by qemu 10.0.2, and this host has qemu 10.1.0",
  );
  const larger = compatibilityOf({ ...spec, memoryMib: 2048 }, tcg);
  assert.equal(
    describeDifference(larger, compatibilityOf(spec, tcg)),
    "its machine has other devices or another shape",
  );
  assert.equal(describeDifference("fake", compatibilityOf(spec, tcg)), "it was captured by another hypervisor");
});

test("the text of a machine under TCG is the one that earlier snapshots hold", (t) => {
  t.assert.snapshot(
    compatibilityOf({ ...spec, network: { kind: "tap", namespace: "/n", device: "tap", openTap: () => 5 } }, tcg),
  );
});
