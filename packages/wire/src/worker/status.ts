import type { ReadyMachinesState } from "./worker.ts";

/** A worker's report every few seconds, by which the server places new sandboxes. */
export interface WorkerStatus extends HostStatus {
  /** The name of the worker in its fleet. */
  readonly workerId: string;
  /** Random per process: tells a restarted worker from a slow one. */
  readonly instance: string;
}

/** The free resources of a worker's host. */
export interface HostStatus {
  /** Memory that machines can still get, less the memory promised to starts under way. */
  readonly freeMemoryMib: number;
  readonly totalMemoryMib: number;
  /** Free share of the data directory's file system, from 0 to 1. */
  readonly freeDiskShare: number;
  /** The model name of the host's processor. */
  readonly cpuModel: string;
  readonly readyMachines: ReadyMachinesState;
}
