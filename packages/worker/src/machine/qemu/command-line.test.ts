import assert from "node:assert/strict";
import { test } from "node:test";
import type { MachineSpec } from "../machine.ts";
import { qemuCommandLine } from "./command-line.ts";

const spec: MachineSpec = {
  directory: "/data/machines/sb-00000001",
  vcpus: 2,
  memoryMib: 1024,
  kernel: "/images/vmlinuz",
  initramfs: "/images/initramfs",
  bootArguments: ["console=ttyS0", "quiet"],
  disks: [
    {
      name: "rootfs",
      format: "qcow2",
      file: "/data/machines/sb-00000001/rootfs.qcow2",
      readOnly: false,
      base: "/images/rootfs",
    },
    { name: "agent", format: "raw", file: "/images/agent", readOnly: true },
  ],
  network: { kind: "none" },
};
const host = { program: "qemu", accelerator: "tcg", vhostVsock: false } as const;

test("the whole command line of a machine", (t) => {
  t.assert.snapshot(qemuCommandLine(spec, host));
});

test("the network is what differs between its kinds", () => {
  const without = qemuCommandLine(spec, host);
  const added = (network: MachineSpec["network"]): string[] =>
    qemuCommandLine({ ...spec, network }, host).filter((argument) => !without.includes(argument));
  const nic = "virtio-net-pci,disable-legacy=on,netdev=net0,mac=52:54:00:12:34:56,romfile=";
  assert.deepEqual(added({ kind: "user" }), ["-netdev", "user,id=net0,ipv6=off", nic]);
  assert.deepEqual(added({ kind: "tap", namespace: "/run/netns/a", openTap: () => 5 }), [
    "-netdev",
    "tap,id=net0,fd=5,vhost=off",
    nic,
  ]);
});

test("no image format is ever left to be guessed", () => {
  const blockdevs = qemuCommandLine(spec, host).filter((argument) => argument.startsWith("{"));
  for (const blockdev of blockdevs) assert.match(blockdev, /^\{"driver":"(raw|qcow2)"/);
  assert.equal(blockdevs.length, 3);
});
