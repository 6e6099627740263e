import type { ReadyMachinesState } from "./worker.ts";

/** What a worker says of itself every few seconds: the server places new sandboxes by it. */
export interface WorkerStatus extends HostStatus {
  /** The name of the worker in its fleet. */
  readonly workerId: string;
  /** Random per process: tells a restarted worker from a slow one. */
  readonly instance: string;
}

/** The free resources of a worker's host. */
export interface HostStatus {
  /** Memory that machines can still get, less what starts under way were promised. */
  readonly freeMemoryMib: number;
  readonly totalMemoryMib: number;
  /** Free share of the data directory's file system, from 0 to 1. */
  readonly freeDiskShare: number;
  /** The processor of the host, as it names itself. */
  readonly cpuModel: string;
  readonly readyMachines: ReadyMachinesState;
}
