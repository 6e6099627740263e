import assert from "node:assert/strict";
import { test } from "node:test";
import type { VmSpec } from "../hypervisor.ts";
import { guestVisible, qemuCommandLine } from "./command-line.ts";

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
const host = { program: "qemu", accelerator: "tcg", vhostVsock: false, processor: "" } as const;

test("the whole command line of a machine", (t) => {
  t.assert.snapshot(qemuCommandLine(spec, host, "boot"));
});

test("the network is what differs between its kinds", () => {
  const without = qemuCommandLine(spec, host, "boot");
  const added = (network: VmSpec["network"]): string[] =>
    qemuCommandLine({ ...spec, network }, host, "boot").filter((argument) => !without.includes(argument));
  const nic = "virtio-net-pci,disable-legacy=on,netdev=net0,mac=52:54:00:12:34:56,romfile=";
  assert.deepEqual(added({ kind: "user" }), ["-netdev", "user,id=net0,ipv6=off", nic]);
  assert.deepEqual(added({ kind: "tap", namespace: "/run/netns/a", openTap: () => 5 }), [
    "-netdev",
    "tap,id=net0,fd=5,vhost=off",
    nic,
  ]);
});

test("no image format is ever left to be guessed", () => {
  const blockdevs = qemuCommandLine(spec, host, "boot").filter((argument) => argument.startsWith("{"));
  for (const blockdev of blockdevs) assert.match(blockdev, /^\{"driver":"(raw|qcow2)"/);
  assert.equal(blockdevs.length, 4);
});

test("what a guest sees of its machine has nothing of the host in it", () => {
  const seen = guestVisible(spec, host);
  for (const argument of seen) assert.doesNotMatch(argument, /\/data\/|drive=|fd=/);
  const elsewhere = {
    ...spec,
    directory: "/other/m-2",
    memoryBase: "/other/m-2/memory.zero",
    disks: spec.disks.map((disk) => ({ ...disk, layers: disk.layers.slice(0, 1) })),
  };
  assert.deepEqual(guestVisible(elsewhere, host), seen);
});

test("another shape, another disk or another accelerator is another machine", () => {
  const seen = guestVisible(spec, host);
  assert.notDeepEqual(guestVisible({ ...spec, memoryMib: 2048 }, host), seen);
  assert.notDeepEqual(guestVisible({ ...spec, vcpus: 1 }, host), seen);
  assert.notDeepEqual(guestVisible({ ...spec, disks: spec.disks.slice(0, 1) }, host), seen);
  assert.notDeepEqual(guestVisible(spec, { ...host, accelerator: "kvm" }), seen);
  assert.notDeepEqual(guestVisible({ ...spec, network: { kind: "user" } }, host), seen);
});

test("a machine that is to be restored waits for its devices' state", () => {
  const line = qemuCommandLine(spec, host, "restore");
  assert.deepEqual(line.slice(line.indexOf("-global")), [
    ...["-global", "migration.send-configuration=off"],
    ...["-incoming", "defer", "-S"],
  ]);
});
