import type { MachineUse } from "@opensandbox/wire/worker/worker.ts";
import type { Cgroup } from "#host/cgroups/cgroups.ts";
import { processState } from "#host/process-state.ts";
import type { SandboxNetwork } from "#network/sandbox-network.ts";

/** What a process of a machine has used since it started. */
export type ProcessUse = Omit<MachineUse, "sandboxId">;

/** The parts of a machine's process that are counted. */
export interface Metered {
  readonly machineId: string;
  readonly pid: number;
  readonly cgroup: Pick<Cgroup, "usage"> | undefined;
  readonly network: Pick<SandboxNetwork, "traffic"> | undefined;
}

/** Processes of one machine that are remembered. A control plane reads and stores them every minute. */
const maxEnded = 64;

/** Counts what the processes of one machine use: its present one, and those before it that have ended. */
export class UseMeter {
  #present: ProcessMeter | undefined;
  #ended: ProcessUse[] = [];

  /** Counts another process. The earlier one, if any, has ended. */
  start(metered: Metered): void {
    this.#present = new ProcessMeter(metered);
  }

  /** Reads the present process itself while it still exists. Its cgroup and its network are read at the end. */
  beforeEnd(): void {
    this.#present?.readProcess();
  }

  /** Reads the present process a last time: it has ended, and its cgroup and its network still exist. */
  async end(): Promise<void> {
    const last = await this.#present?.lastRead();
    this.#present = undefined;
    if (last !== undefined) this.#ended = [...this.#ended, { ...last, ended: true }].slice(-maxEnded);
  }

  /** Ends the count, and lists all processes. */
  async close(): Promise<readonly ProcessUse[]> {
    await this.end();
    return this.#ended;
  }

  /** Forgets ended processes. */
  forget(processes: ReadonlySet<string>): void {
    this.#ended = this.#ended.filter(({ process }) => !processes.has(process));
  }

  async read(): Promise<readonly ProcessUse[]> {
    const present = await this.#present?.read();
    return present === undefined ? this.#ended : [...this.#ended, present];
  }
}

class ProcessMeter {
  readonly #metered: Metered;
  /** Undefined: the process had ended before it was first read. */
  readonly #name: string | undefined;
  readonly #startedAt: number | undefined;
  #cpuMs = 0;
  #egressBytes = 0;

  constructor(metered: Metered) {
    this.#metered = metered;
    const state = processState(metered.pid);
    this.#startedAt = state?.startedAt;
    this.#name = state && `${metered.machineId}.${metered.pid}.${state.startedAt}`;
  }

  /** Reads what can be read: the end of a machine must not fail because a counter is gone. */
  async lastRead(): Promise<ProcessUse | undefined> {
    return await this.read().catch(() => this.#use);
  }

  readProcess(): void {
    const state = processState(this.#metered.pid);
    // The number of an ended process may be that of another one.
    if (state !== undefined && state.startedAt === this.#startedAt) this.#cpuMs = Math.max(this.#cpuMs, state.busyMs);
  }

  async read(): Promise<ProcessUse | undefined> {
    if (this.#name === undefined) return undefined;
    const { cgroup, network } = this.#metered;
    // The cgroup outlives the process and counts its helpers. One that was lost and made again has counted less.
    const { cpuMicroseconds = 0 } = (await cgroup?.usage()) ?? {};
    this.readProcess();
    this.#cpuMs = Math.max(this.#cpuMs, cpuMicroseconds / 1000);
    this.#egressBytes = Math.max(this.#egressBytes, network?.traffic().leavingBytes ?? 0);
    return this.#use;
  }

  get #use(): ProcessUse | undefined {
    if (this.#name === undefined) return undefined;
    return { process: this.#name, cpuMs: Math.floor(this.#cpuMs), egressBytes: this.#egressBytes, ended: false };
  }
}
