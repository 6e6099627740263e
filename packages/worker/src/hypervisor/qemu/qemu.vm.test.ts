import assert from "node:assert/strict";
import { readdir, readlink, realpath } from "node:fs/promises";
import { join } from "node:path";
import { suite, test } from "node:test";
import { examineVsock } from "#host/examine-vsock.ts";
import { type ContractStand, hypervisorContract } from "../hypervisor-contract.ts";
import { contractStand } from "../testing/contract-stand.ts";
import { examineQemu } from "./examine-qemu.ts";
import { qemuHypervisor } from "./qemu.ts";

async function stand({ vsock = false } = {}): Promise<ContractStand> {
  const standing = await contractStand(
    qemuHypervisor(await examineQemu({ program: "qemu-system-x86_64", wanted: "auto" })),
  );
  if (!vsock) return standing;
  return {
    ...standing,
    newSpec: async (wishes) => ({ ...(await standing.newSpec(wishes)), vsock: { cid: (nextCid += 1) } }),
  };
}

/** Above the addresses of every slot. */
let nextCid = 2_100_000_000 + process.pid;

hypervisorContract("qemu", stand);

const vsock = examineVsock();
if (vsock.usable) hypervisorContract("qemu with vsock", () => stand({ vsock: true }));
else suite("qemu with vsock", { skip: vsock.reason }, () => undefined);

test("qemu: a command line that QEMU refuses is an error with QEMU's own words", async () => {
  await using standing = await stand();
  const spec = { ...(await standing.newSpec()), kernel: "/nonexistent/vmlinuz" };
  await assert.rejects(standing.hypervisor.boot(spec, new AbortController().signal), /vmlinuz/);
});

test("qemu: its process has the descriptors that it was handed, its own files, and nothing else of the host", async () => {
  await using standing = await stand();
  const spec = await standing.newSpec();
  const { directory, memoryBase, kernel, initramfs } = spec;
  await using vm = await standing.hypervisor.boot(spec, new AbortController().signal);
  const folder = `/proc/${vm.pid}/fd`;
  const descriptors = await Promise.all((await readdir(folder)).map(async (fd) => await readlink(join(folder, fd))));
  const count = (pattern: RegExp): number => descriptors.filter((file) => pattern.test(file)).length;
  const kvm = /^(\/dev\/kvm|anon_inode:kvm-(vm|vcpu:\d+|vcpu-stats:\d+|vm-stats|device.*))$/;
  const own = [/^\/dev\/(null|urandom)$/, /^anon_inode:\[(eventfd|signalfd|eventpoll|io_uring|timerfd)\]$/, /^socket:/];
  const links = [memoryBase, kernel, initramfs];
  const files = [join(directory, "qemu.log"), ...(await Promise.all(links.map((file) => realpath(file))))];
  const unexpected = descriptors.filter(
    (file) => !files.includes(file) && ![...own, kvm].some((pattern) => pattern.test(file)),
  );
  assert.deepEqual(unexpected, []);
  // The monitor's listener and its client, and the agent's listener.
  assert.equal(count(/^socket:/), 3);
  const { accelerator } = await examineQemu({ program: "qemu-system-x86_64", wanted: "auto" });
  assert.equal(count(/^\/dev\/kvm$/) > 0, accelerator === "kvm");
});
