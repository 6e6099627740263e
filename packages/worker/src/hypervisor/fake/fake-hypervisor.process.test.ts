import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ContractStand, hypervisorContract } from "../hypervisor-contract.ts";
import { fakeHypervisor } from "./fake-hypervisor.ts";

const agent = join(import.meta.dirname, "../../../../guest-agent/src/main.ts");

hypervisorContract("fake", async (): Promise<ContractStand> => {
  const directory = await mkdtemp(join(tmpdir(), "osb-fake-"));
  return {
    hypervisor: fakeHypervisor([process.execPath, "--disable-warning=ExperimentalWarning", agent]),
    spec: {
      directory,
      vcpus: 1,
      memoryMib: 256,
      hotplugMib: 0,
      memoryBase: "",
      kernel: "",
      initramfs: "",
      bootArguments: [],
      disks: [],
      network: { kind: "none" },
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
});
