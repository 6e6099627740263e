import type { WorkerOptions } from "@opensandbox/worker";
import { parseRegistries, type ServerConfig } from "./config.ts";
import { log } from "./log.ts";

/** The worker's part of the configuration. */
export function workerOptions(config: ServerConfig): Omit<WorkerOptions, "ephemeral"> {
  const { dataDirectory, imagesDirectory, hypervisor, accelerator, cpuModel, network, qemuProgram, debianMirror } =
    config;
  const { firecrackerProgram, readyMachines, templatesDirectory, region, fakeAgent, guestKernel, agentTransport } =
    config;
  return {
    dataDirectory,
    imagesDirectory,
    hypervisor,
    accelerator,
    cpuModel,
    network,
    agentTransport,
    qemuProgram,
    firecrackerProgram,
    readyMachines,
    bootTimeoutMs: config.bootSeconds * 1000,
    registries: {
      ...parseRegistries(config.registries),
      ...(config.registryCredentials === undefined ? {} : { credentialsFile: config.registryCredentials }),
    },
    maxImageBytes: config.maxImageMib * 2 ** 20,
    templateMemoryMib: config.defaultMemoryMib,
    region,
    templatesDirectory,
    log,
    ...objectStoreOptions(config),
    ...(config.secretsCaFile === undefined ? {} : { secretAuthoritiesFile: config.secretsCaFile }),
    ...(config.extraCa === undefined ? {} : { extraAuthoritiesFile: config.extraCa }),
    ...(debianMirror === undefined ? {} : { debianMirror }),
    ...(fakeAgent === undefined ? {} : { fakeAgent }),
    ...(guestKernel === undefined ? {} : { guestKernel }),
  };
}

function objectStoreOptions(config: ServerConfig): Pick<WorkerOptions, "objectStore"> {
  const { objectStore: url, objectStoreKey: key, azureConnectionString } = config;
  return url === undefined ? {} : { objectStore: { url, key, azureConnectionString } };
}
