import { listWorkers } from "@opensandbox/wire/public/sandboxes/workers.ts";
import type { HttpClient } from "#transport/http.ts";

/** A host of the fleet. A server without a fleet has one. */
export interface WorkerInfo {
  readonly id: string;
  /** `silent`: it has not answered its server for some seconds. */
  readonly state: "up" | "silent";
  /** It gets no new sandboxes. */
  readonly cordoned: boolean;
  /** Its sandboxes leave it. */
  readonly draining: boolean;
  /** When it last answered. */
  readonly seenAt?: string;
  readonly hypervisor: string;
  readonly cpuModel?: string;
  /** Memory that new machines can get. */
  readonly freeMemoryMib?: number;
  readonly totalMemoryMib?: number;
  readonly freeDiskPercent?: number;
  /** The number of sandboxes that run on it. */
  readonly sandboxes: number;
}

export interface WorkersClient {
  /** Lists the workers of the server. Requires a key with the scope `admin:read`. */
  list(signal?: AbortSignal): Promise<readonly WorkerInfo[]>;
}

export function workersClient(http: HttpClient): WorkersClient {
  return {
    async list(signal) {
      const workers = await http.call(listWorkers, {}, signal);
      return workers.map(({ freeMemoryMB, totalMemoryMB, seenAt, cpuModel, freeDiskPercent, ...worker }) => ({
        ...worker,
        ...(seenAt === undefined ? {} : { seenAt }),
        ...(cpuModel === undefined ? {} : { cpuModel }),
        ...(freeDiskPercent === undefined ? {} : { freeDiskPercent }),
        ...(freeMemoryMB === undefined ? {} : { freeMemoryMib: freeMemoryMB }),
        ...(totalMemoryMB === undefined ? {} : { totalMemoryMib: totalMemoryMB }),
      }));
    },
  };
}
