import assert from "node:assert/strict";
import { openSync } from "node:fs";
import { test } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { examineVsock } from "./examine-vsock.ts";

function failing(code: string): () => number {
  return () => {
    throw new SandboxError("not_supported", code, { cause: Object.assign(new Error(code), { code }) });
  };
}
const opening = (): number => openSync("/dev/null", "r");

test("vsock is used only where the device opens, the kernel has vsock, and machines have addresses", () => {
  const works = { open: opening, refusal: () => undefined, root: true };
  assert.equal(examineVsock(works).usable, true);
  assert.deepEqual(examineVsock({ ...works, open: failing("ENOENT") }), {
    usable: false,
    reason: "this host has no /dev/vhost-vsock",
    fix: "load the kernel's module: modprobe vhost_vsock",
  });
  const closed = examineVsock({ ...works, open: failing("EACCES") });
  assert.ok(!closed.usable && /cannot open \/dev\/vhost-vsock \(EACCES\)/.test(closed.reason));
  const member = examineVsock({ ...works, root: false });
  assert.ok(!member.usable && member.fix === "run as root" && /no vsock address/.test(member.reason));
  const old = examineVsock({ ...works, refusal: () => "EAFNOSUPPORT" });
  assert.ok(!old.usable && /no vsock sockets \(EAFNOSUPPORT\)/.test(old.reason));
});
