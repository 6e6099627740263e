import assert from "node:assert/strict";
import { test } from "node:test";
import { accessFor, acceleratorFailure, groupName, processorFeature, remedyFor, withKvmGroup } from "./kvm-access.ts";

const withDevice = "-accel [accel=]accelerator\n                device=path (KVM device path, default /dev/kvm)\n";
const kvmGroup = { gid: 104, mode: 0o20660 };

test("a QEMU that takes an open device gets one, whatever its user may open", () => {
  const facts = { help: withDevice, gid: 0, mode: 0o20600 };
  assert.deepEqual(accessFor({ ...facts, root: true }), { by: "descriptor" });
  assert.deepEqual(accessFor({ ...facts, root: false }), { by: "descriptor" });
});

test("an older QEMU runs with the device's group, or as the user who may open it", () => {
  assert.deepEqual(accessFor({ ...kvmGroup, help: "", root: true }), { by: "group", gid: 104 });
  assert.deepEqual(accessFor({ ...kvmGroup, help: "", root: false }), { by: "user" });
});

test("no machine gets the group of root, or a group without the right to the device", () => {
  assert.equal(accessFor({ help: "", root: true, gid: 0, mode: 0o20660 }), undefined);
  assert.equal(accessFor({ help: "", root: true, gid: 104, mode: 0o20640 }), undefined);
});

test("only a machine that opens the device by its group has that group", () => {
  const user = { uid: 1, gid: 2 };
  assert.deepEqual(withKvmGroup(user, { by: "group", gid: 104 }), { ...user, groups: [104] });
  assert.deepEqual(withKvmGroup(user, { by: "descriptor" }), user);
  assert.deepEqual(withKvmGroup(user, undefined), user);
});

test("a user without the right to the device reads the exact line to type", () => {
  assert.equal(
    remedyFor({ user: "ada", group: "kvm", ...kvmGroup }),
    "type: sudo usermod -aG kvm ada, then log in again",
  );
  assert.match(remedyFor({ user: "ada", group: "root", gid: 0, mode: 0o20600 }), /^run as root, or let udev give/);
});

test("the group of the device has the name that this host gives it", () => {
  const groups = "root:x:0:\nkvm:x:104:ada,bob\nsgx:x:1040:\n";
  assert.equal(groupName(groups, 104), "kvm");
  assert.equal(groupName(groups, 7), undefined);
});

test("a processor runs guests when its flags include vmx or svm as a whole word", () => {
  assert.equal(processorFeature("model name : x\nflags\t\t: fpu svm lm\n"), "svm");
  assert.equal(processorFeature("flags\t\t: fpu vmx\n"), "vmx");
  assert.equal(processorFeature("flags\t\t: fpu svm_lock vmx_flags\n"), undefined);
});

test("a start that KVM refuses is distinguished from other failures, and is not retried another way", () => {
  const said = "qemu: Could not access KVM kernel module: Permission denied";
  const failure = acceleratorFailure(said, { accelerator: "kvm" });
  assert.equal(failure?.code, "not_supported");
  assert.equal(failure.retryable, false);
  assert.match(failure.message, /Permission denied.*doctor/);
  assert.equal(acceleratorFailure("qemu: could not load kernel", { accelerator: "kvm" }), undefined);
  assert.equal(acceleratorFailure(said, { accelerator: "tcg" }), undefined);
});

test("a warning of QEMU about KVM does not explain the failure of a start", () => {
  const warning =
    "qemu: -accel kvm,device=/dev/fdset/1: warning: Number of SMP cpus requested (8) exceeds the recommended cpus supported by KVM (2)";
  assert.equal(acceleratorFailure(`${warning}; ${warning}`, { accelerator: "kvm" }), undefined);
  const refusal = "qemu: -accel kvm,device=/dev/fdset/1: failed to initialize kvm: Invalid argument";
  assert.equal(acceleratorFailure(`${warning}; ${refusal}`, { accelerator: "kvm" })?.code, "not_supported");
});
