import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import type {
  HeldSandbox,
  Capture,
  MachineUse,
  SandboxEnd,
  StartedSandbox,
  StartFrom,
  StartSandbox,
} from "@opensandbox/wire/worker/worker.ts";

export interface StoredFile {
  readonly chunks: readonly (Uint8Array | Error)[];
  readonly size: number;
  readonly mode: number;
}

/** A machine with its disks, which stay when it ends by itself. */
export interface TestMachine {
  request: StartSandbox;
  readonly files: Map<string, StoredFile>;
  running: boolean;
  /** Bytes of the host's disk that its layers take. */
  diskBytes: number;
  end: PromiseWithResolvers<SandboxEnd>;
  /** What its present process has used. */
  use: MachineUse;
}

export interface TestSnapshot {
  readonly request: StartSandbox;
  readonly files: ReadonlyMap<string, StoredFile>;
  readonly hasMemory: boolean;
  readonly sizeBytes: number;
  /** Why the snapshot's memory cannot be restored here; its disks can be booted. */
  memoryUnusableBecause?: string;
  /** The snapshot's files have changed since the capture. */
  corrupt?: boolean;
}

let hosts = 0;

/** The machines, disks and snapshots of a host, which outlive its workers. */
export class TestHost {
  readonly machines = new Map<SandboxId, TestMachine>();
  readonly snapshots: Map<SnapshotId, TestSnapshot>;
  /** The object store. */
  readonly stored: Map<SnapshotId, TestSnapshot>;
  /** What ended processes have used, by process. */
  readonly endedUse = new Map<string, MachineUse>();
  readonly #id = (hosts += 1);
  #processes = 0;

  /** The snapshots may be shared with another host, and the object store too. */
  constructor(snapshots = new Map<SnapshotId, TestSnapshot>(), stored = new Map<SnapshotId, TestSnapshot>()) {
    this.snapshots = snapshots;
    this.stored = stored;
  }

  list(): HeldSandbox[] {
    return [...this.machines].map(([id, { request, running }]) => ({
      id,
      generation: request.generation,
      memoryMib: request.memoryMib,
      running,
      ...(request.secrets !== undefined && request.secrets.authority === undefined ? { lacksSecrets: true } : {}),
    }));
  }

  machine(id: SandboxId): TestMachine {
    const machine = this.machines.get(id);
    if (machine !== undefined) return machine;
    throw new SandboxError("not_found", `sandbox ${id} does not run on this worker`, { resource: "sandbox", id });
  }

  start(request: StartSandbox): Omit<StartedSandbox, "spans"> {
    const { id, from } = request;
    if (this.machines.has(id)) throw new SandboxError("already_exists", `${id} runs`, { resource: "sandbox", id });
    const files = new Map(from.kind === "snapshot" ? this.#usable(from.snapshotId).files : []);
    const end = Promise.withResolvers<SandboxEnd>();
    this.machines.set(id, { request, files, running: true, diskBytes: 0, end, use: this.#unused(id) });
    return this.#restoredFrom(request, from);
  }

  stop(id: SandboxId): void {
    const machine = this.machines.get(id);
    machine?.end.resolve({ reason: "stopped", detail: "asked for" });
    if (machine !== undefined) this.#endUse(machine);
    this.machines.delete(id);
  }

  crash(id: SandboxId, detail: string, reason: "exited" | "reset" = "exited"): void {
    const machine = this.machine(id);
    machine.running = false;
    machine.end.resolve({ reason, detail });
  }

  powerCycle(id: SandboxId): void {
    const machine = this.machine(id);
    machine.end.resolve({ reason: "stopped", detail: "power-cycled" });
    machine.end = Promise.withResolvers();
    this.#endUse(machine);
    machine.use = this.#unused(id);
    machine.running = true;
  }

  /** The counters of the host, which go on after a worker has ended. */
  measureUse(counted: readonly string[]): MachineUse[] {
    for (const process of counted) this.endedUse.delete(process);
    return [...this.endedUse.values(), ...[...this.machines.values()].map(({ use }) => ({ ...use }))];
  }

  #unused(sandboxId: SandboxId): MachineUse {
    const process = `${this.#id}.${(this.#processes += 1)}`;
    return { sandboxId, process, cpuMs: 0, egressBytes: 0, ended: false };
  }

  #endUse({ use }: TestMachine): void {
    this.endedUse.set(use.process, { ...use, ended: true });
  }

  capture(id: SandboxId, { snapshotId, contents }: Capture): TestSnapshot {
    const { request, files, running } = this.machine(id);
    if (!running) throw new SandboxError("unavailable", `the machine of sandbox ${id} has ended`);
    const hasMemory = contents === "memory and disks";
    const snapshot: TestSnapshot = { request, files: new Map(files), hasMemory, sizeBytes: 1_000_000 };
    this.snapshots.set(snapshotId, snapshot);
    return snapshot;
  }

  upload(id: SnapshotId): void {
    const snapshot = this.snapshots.get(id);
    if (snapshot === undefined) {
      throw new SandboxError("not_found", `snapshot ${id} does not exist`, { resource: "snapshot", id });
    }
    this.stored.set(id, snapshot);
  }

  #usable(id: SnapshotId): TestSnapshot {
    const stored = this.stored.get(id);
    if (stored !== undefined && !this.snapshots.has(id)) this.snapshots.set(id, stored);
    const snapshot = this.snapshots.get(id);
    if (snapshot === undefined) {
      throw new SandboxError("not_found", `snapshot ${id} does not exist`, { resource: "snapshot", id });
    }
    if (snapshot.corrupt) {
      throw new SandboxError("incompatible", `snapshot ${id} is damaged: its checksum differs`, { reason: "damaged" });
    }
    return snapshot;
  }

  #restoredFrom(request: StartSandbox, from: StartFrom): Omit<StartedSandbox, "spans"> {
    if (from.kind === "image") return { restoredFrom: "disk" };
    const { memoryUnusableBecause, hasMemory, request: captured } = this.#usable(from.snapshotId);
    const because =
      memoryUnusableBecause ??
      (hasMemory ? undefined : "it has no memory") ??
      (captured.memoryMib === request.memoryMib ? undefined : "its memory has another size");
    return because === undefined ? { restoredFrom: "memory" } : { restoredFrom: "disk", restoredBecause: because };
  }
}
