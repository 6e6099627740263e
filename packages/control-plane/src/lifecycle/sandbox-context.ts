import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import type { CheckpointStore } from "#checkpoints/checkpoint-store.ts";
import type { PatchStore } from "#checkpoints/patch-store.ts";
import type { Snapshots } from "#snapshots/snapshots.ts";
import type { Background } from "../background.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { SingleFlight } from "../single-flight.ts";
import type { Activity } from "./activity.ts";
import type { Gates } from "./gates.ts";
import type { SandboxStore } from "#sandboxes/sandbox-store.ts";

/** What every use case works with. */
export interface SandboxContext {
  readonly worker: Worker;
  readonly store: SandboxStore;
  readonly checkpoints: CheckpointStore;
  readonly patches: PatchStore;
  readonly snapshots: Snapshots;
  readonly gates: Gates;
  /** Wakes that calls to sleeping sandboxes have begun. */
  readonly wakes: SingleFlight<SandboxId, void>;
  /** Checkpoints that are being made, by their id. */
  readonly captures: SingleFlight<string, void>;
  readonly activity: Activity;
  readonly background: Background;
  readonly clock: Clock;
  readonly log: Log;
  readonly defaults: SandboxDefaults;
  readonly maxSandboxes: number;
  /** This control plane lives for one command, and its sandboxes no longer. */
  readonly ephemeral: boolean;
  isWorkerAlive(workerId: string): boolean;
  /** Aborted when the control plane ends. */
  readonly ending: AbortSignal;
  /** Aborted after `ending`, when what goes on without a caller has to be broken off. */
  readonly cutOff: AbortSignal;
}

export interface SandboxDefaults {
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly idleTimeoutSeconds: number;
}
