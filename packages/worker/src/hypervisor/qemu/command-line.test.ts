import assert from "node:assert/strict";
import { test } from "node:test";
import type { VmSpec } from "../hypervisor.ts";
import {
  guestVisible,
  type QemuHost,
  inheritedDescriptors,
  probeCommandLine,
  qemuCommandLine,
} from "./command-line.ts";

const spec: VmSpec = {
  directory: "/data/machines/m-00000001",
  vcpus: 2,
  memoryMib: 1024,
  hotplugMib: 3584,
  memoryBase: "/data/machines/m-00000001/memory.base",
  kernel: "/images/vmlinuz",
  initramfs: "/images/initramfs",
  bootArguments: ["console=ttyS0", "quiet"],
  disks: [
    {
      name: "rootfs",
      base: "/data/machines/m-00000001/rootfs.base",
      layers: ["/data/machines/m-00000001/rootfs-1.qcow2", "/data/machines/m-00000001/rootfs-2.qcow2"],
    },
    { name: "agent", base: "/data/machines/m-00000001/agent.base", layers: [] },
  ],
  network: { kind: "none" },
};
const host = { program: "qemu", accelerator: "tcg", processor: "" } as const;
const kvm = { ...host, accelerator: "kvm", kvmAccess: { by: "descriptor" } } as const;

test("the whole command line of a machine", (t) => {
  t.assert.snapshot(qemuCommandLine(spec, host, "boot"));
});

test("machines with different kinds of networks differ only in the arguments of the network", () => {
  const without = qemuCommandLine(spec, host, "boot");
  const added = (network: VmSpec["network"]): string[] =>
    qemuCommandLine({ ...spec, network }, host, "boot").filter((argument) => !without.includes(argument));
  const nic = "virtio-net-pci,disable-legacy=on,netdev=net0,mac=52:54:00:12:34:56,romfile=";
  assert.deepEqual(added({ kind: "user" }), ["-netdev", "user,id=net0,ipv6=off", nic]);
  assert.deepEqual(added({ kind: "tap", namespace: "/run/netns/a", device: "tap", openTap: () => 5 }), [
    "-netdev",
    "tap,id=net0,fd=5,vhost=off",
    nic,
  ]);
});

test("under KVM the processor is the host's and /dev/kvm is a descriptor", () => {
  const tap = {
    ...spec,
    network: { kind: "tap", namespace: "/run/netns/a", device: "tap", openTap: () => 5 },
  } as const;
  const without = qemuCommandLine(tap, host, "boot");
  const added = (kvmAccess: NonNullable<QemuHost["kvmAccess"]>): string[] =>
    qemuCommandLine(tap, { ...kvm, kvmAccess }, "boot").filter((argument) => !without.includes(argument));
  const nic = "virtio-net-pci,disable-legacy=on,netdev=net0,mac=52:54:00:12:34:56,romfile=,queue_reset=off";
  assert.deepEqual(inheritedDescriptors(tap, kvm), ["qmp", "agent", "tap", "kvm"]);
  assert.deepEqual(added({ by: "descriptor" }), [
    ...["-add-fd", "fd=6,set=1"],
    "kvm,device=/dev/fdset/1",
    "host,-vmx,-svm",
    nic,
  ]);
  assert.deepEqual(inheritedDescriptors(spec, kvm), ["qmp", "agent", "kvm"]);
  assert.ok(qemuCommandLine(spec, kvm, "boot").includes("fd=5,set=1"));
  for (const by of [{ by: "group", gid: 104 }, { by: "user" }] as const) {
    assert.deepEqual(added(by), ["kvm", "host,-vmx,-svm", nic]);
    assert.deepEqual(inheritedDescriptors(tap, { ...kvm, kvmAccess: by }), ["qmp", "agent", "tap"]);
  }
});

test("under KVM a TAP's packets are moved by vhost where the host has it, and the guest sees no difference", () => {
  const tap = {
    ...spec,
    network: { kind: "tap", namespace: "/run/netns/a", device: "tap", openTap: () => 5 },
  } as const;
  const vhost = { ...kvm, vhostNet: true };
  assert.deepEqual(inheritedDescriptors(tap, vhost), ["qmp", "agent", "tap", "kvm", "vhost-net"]);
  const line = qemuCommandLine(tap, vhost, "boot");
  assert.equal(line[line.indexOf("-netdev") + 1], "tap,id=net0,fd=5,vhost=on,vhostfd=7");
  assert.deepEqual(guestVisible(tap, vhost), guestVisible(tap, kvm));
  assert.deepEqual(inheritedDescriptors(spec, vhost), ["qmp", "agent", "kvm"]);
  assert.ok(!qemuCommandLine(spec, vhost, "boot").join(" ").includes("vhost"));
});

test("only under KVM a guest has the processor model that the setting names", () => {
  const processor = (host: QemuHost): string => {
    const line = qemuCommandLine(spec, host, "boot");
    return line[line.indexOf("-cpu") + 1] ?? "";
  };
  assert.equal(processor({ ...kvm, cpuModel: "EPYC-Milan" }), "EPYC-Milan,enforce,-vmx,-svm");
  assert.equal(processor({ ...host, cpuModel: "EPYC-Milan" }), "max,-svm");
});

test("a vsock device is the last one, takes its descriptor from QEMU's parent, and is the same for every address", () => {
  const withVsock = (cid: number): VmSpec => ({ ...spec, vsock: { cid } });
  const without = qemuCommandLine(spec, kvm, "boot");
  assert.deepEqual(inheritedDescriptors(withVsock(77), kvm), ["qmp", "agent", "kvm", "vsock"]);
  const line = qemuCommandLine(withVsock(77), kvm, "boot");
  assert.deepEqual(line, [...without, ...["-device", "vhost-vsock-pci,disable-legacy=on,guest-cid=77,vhostfd=6"]]);
  assert.deepEqual(guestVisible(withVsock(77), kvm), guestVisible(withVsock(78), kvm));
  assert.notDeepEqual(guestVisible(withVsock(77), kvm), guestVisible(spec, kvm));
});

test("the whole command line of a probe, under KVM", (t) => {
  t.assert.snapshot(probeCommandLine(kvm));
});

test("a probe has the processor and the system call filter of a machine", () => {
  for (const each of [host, kvm]) {
    const options = (line: readonly string[]): string[] =>
      ["-sandbox", "-cpu"].map((option) => line[line.indexOf(option) + 1] ?? "");
    assert.deepEqual(options(probeCommandLine(each)), options(qemuCommandLine(spec, each, "boot")));
  }
});

test("every disk names its image format, so that QEMU never guesses one", () => {
  const blockdevs = qemuCommandLine(spec, host, "boot").filter((argument) => argument.startsWith("{"));
  for (const blockdev of blockdevs) assert.match(blockdev, /^\{"driver":"(raw|qcow2)"/);
  assert.equal(blockdevs.length, 4);
});

test("the arguments that a guest can observe contain no path or descriptor of the host", () => {
  const seen = guestVisible(spec, host);
  for (const argument of seen) assert.doesNotMatch(argument, /\/data\/|drive=|fd=/);
  const elsewhere = {
    ...spec,
    directory: "/other/m-2",
    memoryBase: "/other/m-2/memory.zero",
    disks: spec.disks.map((disk) => ({ ...disk, layers: disk.layers.slice(0, 1) })),
  };
  assert.deepEqual(guestVisible(elsewhere, host), seen);
  const otherAccess = { ...kvm, kvmAccess: { by: "group", gid: 104 } } as const;
  assert.deepEqual(guestVisible(spec, kvm), guestVisible(spec, otherAccess));
});

test("another shape, another disk or another accelerator is another machine", () => {
  const seen = guestVisible(spec, host);
  assert.notDeepEqual(guestVisible({ ...spec, memoryMib: 2048 }, host), seen);
  assert.notDeepEqual(guestVisible({ ...spec, vcpus: 1 }, host), seen);
  assert.notDeepEqual(guestVisible({ ...spec, disks: spec.disks.slice(0, 1) }, host), seen);
  assert.notDeepEqual(guestVisible(spec, kvm), seen);
  assert.notDeepEqual(guestVisible({ ...spec, network: { kind: "user" } }, host), seen);
});

test("a machine that is to be restored waits for its devices' state", () => {
  const line = qemuCommandLine(spec, host, "restore");
  assert.deepEqual(line.slice(line.indexOf("-global")), [
    ...["-global", "migration.send-configuration=off"],
    ...["-incoming", "defer", "-S"],
  ]);
});
