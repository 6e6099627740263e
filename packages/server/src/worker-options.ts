import type { WorkerOptions } from "@opensandbox/worker";
import type { ServerConfig } from "./config.ts";
import { log } from "./log.ts";

/** The worker's part of the configuration. */
export function workerOptions(config: ServerConfig): WorkerOptions {
  const { dataDirectory, imagesDirectory, hypervisor, accelerator, network, qemuProgram, debianMirror } = config;
  return {
    dataDirectory,
    imagesDirectory,
    hypervisor,
    accelerator,
    network,
    qemuProgram,
    log,
    ...(debianMirror === undefined ? {} : { debianMirror }),
  };
}
