import assert from "node:assert/strict";
import { test } from "node:test";
import type { VmSpec } from "../hypervisor.ts";
import { type FirecrackerHost, firecrackerCommandLine } from "./command-line.ts";
import { compatibilityOf, describeDifference } from "./compatibility.ts";
import { bootConfiguration } from "./configuration.ts";

const directory = "/data/machines/m-00000001";
const spec: VmSpec = {
  directory,
  ...{ vcpus: 2, memoryMib: 1024, hotplugMib: 7168 },
  ...{ memoryBase: `${directory}/memory.base`, kernel: `${directory}/vmlinux`, initramfs: `${directory}/initramfs` },
  bootArguments: ["console=ttyS0", "panic=-1", "reboot=t"],
  disks: [
    {
      name: "rootfs",
      base: `${directory}/rootfs.base`,
      layers: [`${directory}/rootfs-1.qcow2`, `${directory}/rootfs-2.qcow2`],
    },
    { name: "agent", base: `${directory}/agent.base`, layers: [] },
  ],
  network: { kind: "tap", namespace: "/run/netns/a", device: "tap0", openTap: () => 5 },
};
const host: FirecrackerHost = {
  program: "/usr/local/bin/firecracker",
  version: "1.17.0",
  kvmAccess: { by: "user" },
  processor: "AMD EPYC 7763; 1; fpu sse2",
  filtersCalls: true,
};

test("the whole configuration of a machine", (t) => {
  t.assert.snapshot(bootConfiguration(spec));
});

test("the whole command line of a machine", (t) => {
  t.assert.snapshot(firecrackerCommandLine(spec, host, ["/cache/rootfs"]));
});

test("a host whose setpriv loads no filter starts Firecracker without one", () => {
  const script = firecrackerCommandLine(spec, { ...host, filtersCalls: false }, []).at(-1) ?? "";
  assert.doesNotMatch(script, /seccomp/);
});

test("a machine without writable disks has no storage daemon", () => {
  const script = firecrackerCommandLine({ ...spec, disks: spec.disks.slice(1) }, host, []).at(-1) ?? "";
  assert.doesNotMatch(script, /qemu-storage-daemon/);
});

test("a directory's name is one word of the shell, whatever is in it", () => {
  const script = firecrackerCommandLine({ ...spec, directory: "/data/it's, $(here)/m-1" }, host, []).at(-1) ?? "";
  assert.ok(script.includes(`'/data/it'\\''s, $(here)/m-1/system-calls.bpf'`), script);
  assert.ok(script.includes(`mountpoint=/data/it'\\''s,, $(here)/m-1/own/rootfs.disk,`), script);
});

test("the text of a machine is the one that earlier snapshots hold, in any directory", (t) => {
  t.assert.snapshot(compatibilityOf(spec, host));
  const elsewhere = { ...spec, directory: "/other", kernel: "/other/vmlinux", memoryBase: "/other/memory.base" };
  const disks = spec.disks.map((disk) => ({ ...disk, base: `/other/${disk.name}.base`, layers: disk.layers.slice(1) }));
  assert.equal(compatibilityOf({ ...elsewhere, disks }, host), compatibilityOf(spec, host));
});

test("another hypervisor, another Firecracker, another processor and another shape are named", () => {
  const difference = (captured: string): string => describeDifference(captured, compatibilityOf(spec, host));
  assert.equal(
    difference('["qemu 10.0.2","","pc-q35-9.0"]'),
    "it was captured by another hypervisor, and this host's machines are Firecracker's",
  );
  assert.equal(
    difference(compatibilityOf(spec, { ...host, version: "1.13.1" })),
    "it was captured by Firecracker 1.13.1, and this host has Firecracker 1.17.0",
  );
  assert.equal(
    difference(compatibilityOf(spec, { ...host, processor: "AMD EPYC 9654; 1; fpu" })),
    "its guest sees the processor of its host (AMD EPYC 9654), and this host has another (AMD EPYC 7763)",
  );
  assert.equal(
    difference(compatibilityOf({ ...spec, memoryMib: 2048 }, host)),
    "its machine has other devices or another shape",
  );
});
