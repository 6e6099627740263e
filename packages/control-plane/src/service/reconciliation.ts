import type { HeldSandbox } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";

/** Everything that a starting control plane finds of one sandbox. */
export interface Found {
  /** Absent: the database has no row. */
  readonly row?: {
    readonly state: SandboxState;
    readonly generation: number;
    /** The sandbox belongs to another server process, which is alive. */
    readonly elsewhere: boolean;
    readonly hidden: boolean;
    readonly ephemeral: boolean;
  };
  /** The machine or disks that this worker adopted. */
  readonly adopted?: Pick<HeldSandbox, "generation" | "running">;
  /** The snapshot named by its hibernation exists. */
  readonly snapshot: boolean;
}

/**
 * - `leave`: the row is right, and the worker has nothing of the sandbox.
 * - `run`: its machine runs here, so the row becomes running.
 * - `boot on use`: its machine ended and its disks are here; the next call boots them.
 * - `keep disks`: the state in the row is right, and the disks are now this worker's.
 * - `hibernated`: its snapshot is complete and nothing else is needed.
 * - `lost`: neither machine, disks nor snapshot was found.
 * - `undo`: its create was never answered, so every trace is removed.
 * - `stop`: its deletion continues, or it is ephemeral and its server exited.
 * - `clean`: the row is right, and the worker removes leftovers.
 */
export type Reconciliation =
  | "leave"
  | "run"
  | "boot on use"
  | "keep disks"
  | "hibernated"
  | "lost"
  | "undo"
  | "stop"
  | "clean";

/** Decides what to do with a sandbox that an exited server process left. Pure. */
export function reconciliationOf({ row, adopted, snapshot }: Found): Reconciliation {
  if (row === undefined || row.elsewhere) return adopted === undefined ? "leave" : "clean";
  if (row.hidden) return "undo";
  if (row.ephemeral && row.state !== "creating" && row.state !== "stopped") return adopted?.running ? "run" : "stop";
  switch (row.state) {
    case "creating":
      return "undo";
    case "stopping":
      return "stop";
    case "stopped":
      return adopted === undefined ? "leave" : "clean";
    case "running":
    case "restarting":
      if (adopted === undefined) return "lost";
      return adopted.running ? "run" : "boot on use";
    case "hibernating":
      if (adopted?.running) return "run";
      if (snapshot) return "hibernated";
      return adopted === undefined ? "lost" : "boot on use";
    case "waking":
      // A machine that ended during its wake is discarded: the snapshot it was woken from is complete.
      return adopted?.running ? "run" : "hibernated";
    case "hibernated":
      if (adopted === undefined) return "leave";
      // After the loss of its worker the sandbox has run elsewhere, and its snapshot is newer than this machine.
      if (adopted.generation < row.generation) return "clean";
      if (adopted.running) return "run";
      return snapshot ? "clean" : "boot on use";
    case "error":
      if (adopted === undefined) return "lost";
      return adopted.running ? "run" : "keep disks";
  }
}
