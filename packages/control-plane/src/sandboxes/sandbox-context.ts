import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { Activity } from "./activity.ts";
import type { Gates } from "./gates.ts";
import type { SandboxStore } from "./sandbox-store.ts";

/** What every use case works with. */
export interface SandboxContext {
  readonly worker: Worker;
  readonly store: SandboxStore;
  readonly gates: Gates;
  readonly activity: Activity;
  readonly clock: Clock;
  readonly log: Log;
  readonly defaults: SandboxDefaults;
  readonly maxSandboxes: number;
  isWorkerAlive(workerId: string): boolean;
  /** Aborted when the control plane ends. */
  readonly ending: AbortSignal;
}

export interface SandboxDefaults {
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly idleTimeoutSeconds: number;
}
