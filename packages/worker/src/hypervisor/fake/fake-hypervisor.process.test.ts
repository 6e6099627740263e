import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { VmSpec } from "../hypervisor.ts";
import { type ContractStand, hypervisorContract } from "../hypervisor-contract.ts";
import { fakeHypervisor } from "./fake-hypervisor.ts";

const agent = join(import.meta.dirname, "../../../../guest-agent/src/main.ts");

hypervisorContract("fake", async (): Promise<ContractStand> => {
  const directory = await mkdtemp(join(tmpdir(), "osb-fake-"));
  const nothing = { memoryBase: "", kernel: "", initramfs: "", bootArguments: [], disks: [] };
  return {
    hypervisor: fakeHypervisor([process.execPath, "--disable-warning=ExperimentalWarning", agent]),
    directory,
    newSpec: async ({ hotplugMib = 0 } = {}): Promise<VmSpec> => ({
      directory: await mkdtemp(join(directory, "vm-")),
      ...{ vcpus: 1, memoryMib: 256, hotplugMib, network: { kind: "none" } },
      ...nothing,
    }),
    makeLayer: () => Promise.reject(new Error("the fake hypervisor has no disks")),
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
});
