import assert from "node:assert/strict";
import { test } from "node:test";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import { type ContractStand, hypervisorContract } from "../hypervisor-contract.ts";
import { contractStand } from "../testing/contract-stand.ts";
import { examineFirecracker } from "./examine-firecracker.ts";
import { firecrackerHypervisor } from "./firecracker.ts";

const program = process.env["OPENSANDBOX_FIRECRACKER_BIN"] ?? "firecracker";
const examined = await examineFirecracker({ program, accelerator: "kvm" }).catch(
  (error: unknown) => asSandboxError(error).message,
);
const skip = typeof examined === "string" ? examined : false;

async function stand(): Promise<ContractStand> {
  const standing = await contractStand(
    firecrackerHypervisor(await examineFirecracker({ program, accelerator: "kvm" })),
  );
  // Firecracker announces a restore by ACPI, which a kernel that has just begun to boot does not understand.
  return {
    ...standing,
    captureAfter: /Freeing initrd memory/,
    hotplugNeedsDriver: true,
    [Symbol.asyncDispose]: () => standing[Symbol.asyncDispose](),
  };
}

hypervisorContract("firecracker", stand, { skip });

test("firecracker: a kernel that it cannot load fails with Firecracker's own message", { skip }, async () => {
  await using standing = await stand();
  const spec = { ...(await standing.newSpec()), kernel: "/nonexistent/vmlinux" };
  await assert.rejects(standing.hypervisor.boot(spec, new AbortController().signal), /boot-source.*No such file/);
});
