import assert from "node:assert/strict";
import { test } from "node:test";
import { examineFirecracker } from "./examine-firecracker.ts";

test("a setting that only QEMU has is refused with its name, before Firecracker is looked for", async () => {
  const program = "/nonexistent/firecracker";
  await assert.rejects(examineFirecracker({ program, accelerator: "tcg" }), /leave OPENSANDBOX_ACCEL at auto or kvm/);
  await assert.rejects(
    examineFirecracker({ program, accelerator: "auto", cpuModel: "EPYC-Rome" }),
    /leave OPENSANDBOX_CPU_MODEL at host instead of EPYC-Rome/,
  );
  await assert.rejects(
    examineFirecracker({ program, accelerator: "kvm", cpuModel: "host" }),
    /\/nonexistent\/firecracker is not a program .*set OPENSANDBOX_FIRECRACKER_BIN/,
  );
});
