import type { AdoptedSandbox } from "@opensandbox/wire/worker/worker.ts";
import type { SandboxState } from "#lifecycle/sandbox-lifecycle.ts";

/** What is known of a sandbox when the control plane starts. */
export interface Found {
  /** Absent: there is no row. */
  readonly row?: {
    readonly state: SandboxState;
    readonly generation: number;
    /** Another server process that lives has it. */
    readonly elsewhere: boolean;
    readonly hidden: boolean;
    readonly ephemeral: boolean;
  };
  /** What the worker has taken over of it. */
  readonly adopted?: Pick<AdoptedSandbox, "generation" | "running">;
  /** The snapshot that its hibernation was to make exists. */
  readonly snapshot: boolean;
}

/**
 * - `leave`: the row is true, and the worker has nothing of it.
 * - `run`: its machine runs here; the row says so.
 * - `boot on use`: its machine has ended and its disks are here; the next call boots them.
 * - `keep disks`: the row is true, and its disks are here now.
 * - `hibernated`: its snapshot is all there is of it, and enough.
 * - `lost`: nothing of it was found, not even disks.
 * - `undo`: a create that nobody was told of; nothing stays.
 * - `stop`: its end goes on, or it ends with the server that it was for.
 * - `clean`: the row is true, and what the worker has of it is a remainder.
 */
export type Settlement =
  | "leave"
  | "run"
  | "boot on use"
  | "keep disks"
  | "hibernated"
  | "lost"
  | "undo"
  | "stop"
  | "clean";

/** What to make of a sandbox that an ended process has left. Pure. */
export function settlementOf({ row, adopted, snapshot }: Found): Settlement {
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
      // A machine that ended right after its wake is worth less than what it was woken from.
      return adopted?.running ? "run" : "hibernated";
    case "hibernated":
      if (adopted === undefined) return "leave";
      if (adopted.running) return "run";
      return snapshot ? "clean" : "boot on use";
    case "error":
      if (adopted === undefined) return "lost";
      return adopted.running ? "run" : "keep disks";
  }
}
