import type { ChildProcessWithoutNullStreams } from "node:child_process";
import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { FileChange } from "@opensandbox/wire/worker/files.ts";
import type { Exec } from "@opensandbox/wire/worker/sessions.ts";
import type {
  Capture,
  CapturedSnapshot,
  GuestAnswer,
  GuestRequest,
  HeldSandbox,
  MachineUse,
  NetworkRefusal,
  OwnedFiles,
  SandboxSize,
  Scaled,
  SandboxEnd,
  StartedSandbox,
  StartSandbox,
  StoredSnapshot,
  SweptStore,
  Worker,
  WorkerDescription,
} from "@opensandbox/wire/worker/worker.ts";
import { TestGuest } from "./test-guest.ts";
import { TestHost, type TestMachine } from "./test-host.ts";
import type { TestSessions } from "./test-sessions.ts";

/** A worker for tests: sandboxes are entries, commands are processes of this host, files are in memory. */
export class TestWorker implements Worker {
  readonly id: string;
  readonly started: StartSandbox[] = [];
  readonly stopped: SandboxId[] = [];
  /** Sweeps of the object store so far. */
  sweeps = 0;
  /** Processes of commands that run. */
  readonly running = new Set<ChildProcessWithoutNullStreams>();
  /** Called for every start, so that a test can hold it up or make it fail. */
  onStart: (request: StartSandbox, onProgress: Parameters<Worker["startSandbox"]>[1], signal: AbortSignal) => unknown =
    () => {};
  onStop: (id: SandboxId) => unknown = () => {};
  /** Called for every command; an error that it throws is the command's failure to start. */
  onExec: (request: Exec) => unknown = () => {};
  /** Called before each step; an error that they throw is the failure of the step, which then has no effect. */
  onHibernate: (id: SandboxId, snapshotId: SnapshotId, signal: AbortSignal) => unknown = () => {};
  onCapture: (id: SandboxId, request: Capture, signal: AbortSignal) => unknown = () => {};
  onReboot: (id: SandboxId) => unknown = () => {};
  onPowerCycle: (id: SandboxId) => unknown = () => {};
  /** Returns the answer, or undefined to resize the machine. */
  onScale: (id: SandboxId, memoryMib: number) => Scaled | undefined | Promise<Scaled | undefined> = () => undefined;
  onSync: (id: SandboxId, signal: AbortSignal) => unknown = () => {};
  onUpload: (snapshotId: SnapshotId, signal: AbortSignal) => unknown = () => {};
  onRemoveSnapshot: (snapshotId: SnapshotId) => unknown = () => {};
  /** Called after each step and before its answer. While this call hangs, the answer is lost. */
  onDone: (step: "start" | "stop" | "hibernate" | "capture" | "power-cycle", id: SandboxId) => unknown = () => {};
  /** Changes that watchers of a path receive. */
  readonly changes = new Map<string, readonly (readonly FileChange[])[]>();
  /** Paths of uploads that were given up. */
  readonly brokenUploads: string[] = [];
  onSetNetworkPolicy: (id: SandboxId, policy: NetworkPolicy) => unknown = () => {};
  onSetSecrets: (id: SandboxId) => unknown = () => {};
  readonly policies = new Map<SandboxId, NetworkPolicy>();
  refusals: readonly NetworkRefusal[] = [];
  /** Ports of connection attempts. */
  readonly opened: number[] = [];
  /** The clock of the guests. */
  now: () => number = Date.now;
  /** The guests by sandbox. A guest is kept when its machine hibernates. */
  readonly #guests = new Map<SandboxId, TestGuest>();
  readonly #guestRequests: GuestRequest[] = [];
  readonly #answers = new Map<string, (answer: GuestAnswer) => void>();
  #guestAsked = Promise.withResolvers<void>();
  readonly host: TestHost;

  /** Adopts the machines that are on the host. */
  constructor(id = "worker-1", host = new TestHost()) {
    this.id = id;
    this.host = host;
    // No worker stores values of secrets.
    for (const machine of host.machines.values()) {
      if (machine.request.secrets !== undefined) machine.request = { ...machine.request, secrets: { secrets: [] } };
    }
  }

  description: WorkerDescription = {
    hypervisor: "fake",
    hypervisorVersion: "0",
    accelerator: { name: "none", reason: "a test" },
    network: { mode: "none", reason: "a test" },
    images: ["default", "minimal"],
    secrets: true,
  };

  /** Sandboxes whose machines run. */
  get live(): SandboxId[] {
    return [...this.host.machines].filter(([, { running }]) => running).map(([id]) => id);
  }

  async startSandbox(
    request: StartSandbox,
    onProgress: Parameters<Worker["startSandbox"]>[1],
    signal: AbortSignal,
  ): Promise<StartedSandbox> {
    this.started.push(request);
    await this.onStart(request, onProgress, signal);
    signal.throwIfAborted();
    const restored = this.host.start(request);
    await this.onDone("start", request.id);
    return { ...restored, spans: [{ name: "machine start", milliseconds: 1.25 }] };
  }

  async stopSandbox(id: SandboxId): Promise<void> {
    await this.onStop(id);
    this.stopped.push(id);
    this.host.stop(id);
    this.#guests.get(id)?.processes.removeAll();
    this.#guests.delete(id);
    await this.onDone("stop", id);
  }

  async listSandboxes(): Promise<readonly HeldSandbox[]> {
    await Promise.resolve();
    return this.host.list();
  }

  async waitForEnd(id: SandboxId, signal: AbortSignal): Promise<SandboxEnd> {
    return await orAborted(this.host.machine(id).end.promise, signal);
  }

  /** Ends a machine as if its process had died. */
  crash(id: SandboxId, detail: string, reason?: "exited" | "reset"): void {
    this.host.crash(id, detail, reason);
  }

  async captureSandbox(id: SandboxId, request: Capture, signal: AbortSignal): Promise<CapturedSnapshot> {
    await this.onCapture(id, request, signal);
    signal.throwIfAborted();
    const { sizeBytes } = this.host.capture(id, request);
    await this.onDone("capture", id);
    return { sizeBytes, pausedMs: 1 };
  }

  async hibernateSandbox(id: SandboxId, snapshotId: SnapshotId, signal: AbortSignal): Promise<CapturedSnapshot> {
    await this.onHibernate(id, snapshotId, signal);
    signal.throwIfAborted();
    const { sizeBytes } = this.host.capture(id, { snapshotId, contents: "memory and disks" });
    this.host.stop(id);
    await this.onDone("hibernate", id);
    return { sizeBytes, pausedMs: 1 };
  }

  async findSnapshot(snapshotId: SnapshotId): Promise<StoredSnapshot | undefined> {
    await Promise.resolve();
    const snapshot = this.host.snapshots.get(snapshotId);
    return snapshot && { sizeBytes: snapshot.sizeBytes };
  }

  async removeSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.onRemoveSnapshot(snapshotId);
    this.host.snapshots.delete(snapshotId);
  }

  async uploadSnapshot(snapshotId: SnapshotId, signal: AbortSignal): Promise<void> {
    await this.onUpload(snapshotId, signal);
    signal.throwIfAborted();
    this.host.upload(snapshotId);
  }

  async removeStoredSnapshot(snapshotId: SnapshotId): Promise<void> {
    await Promise.resolve();
    this.host.stored.delete(snapshotId);
  }

  async sweepStore(): Promise<SweptStore> {
    await Promise.resolve();
    this.sweeps += 1;
    return { objects: 0, bytes: 0 };
  }

  async measureDisk({ sandboxes, snapshots }: OwnedFiles): Promise<number> {
    await Promise.resolve();
    const ofSnapshots = snapshots.map((id) => this.host.snapshots.get(id)?.sizeBytes ?? 0);
    const ofMachines = sandboxes.map((id) => this.host.machines.get(id)?.diskBytes ?? 0);
    return [...ofSnapshots, ...ofMachines].reduce((sum, bytes) => sum + bytes, 0);
  }

  async measureUse(counted: readonly string[]): Promise<readonly MachineUse[]> {
    await Promise.resolve();
    return this.host.measureUse(counted);
  }

  async rebootSandbox(id: SandboxId): Promise<void> {
    this.#machine(id);
    await this.onReboot(id);
  }

  async powerCycleSandbox(id: SandboxId): Promise<void> {
    await this.onPowerCycle(id);
    this.host.powerCycle(id);
    await this.onDone("power-cycle", id);
  }

  async scaleSandbox(id: SandboxId, size: SandboxSize): Promise<Scaled> {
    const machine = this.#machine(id);
    const scaled = (await this.onScale(id, size.memoryMib)) ?? { done: true };
    if (scaled.done) machine.request = { ...machine.request, ...size };
    return scaled;
  }

  /** Asks for another size as the guest does; settles with the control plane's answer. */
  async askToScale(sandboxId: SandboxId, body: unknown): Promise<GuestAnswer> {
    const { promise, resolve } = Promise.withResolvers<GuestAnswer>();
    const requestId = `request-${this.#answers.size}`;
    this.#answers.set(requestId, resolve);
    this.#guestRequests.push({ requestId, sandboxId, kind: "scale", body });
    this.#guestAsked.resolve();
    return await promise;
  }

  async *guestRequests(signal: AbortSignal): AsyncGenerator<GuestRequest> {
    for (;;) {
      await orAborted(this.#guestAsked.promise, signal);
      this.#guestAsked = Promise.withResolvers();
      yield* this.#guestRequests.splice(0);
    }
  }

  async answerGuest(requestId: string, answer: GuestAnswer): Promise<void> {
    await Promise.resolve();
    this.#answers.get(requestId)?.(answer);
  }

  /** Plants a file that no disk has: one that breaks in the middle, or has a wrong size. */
  plantFile(id: SandboxId, path: string, chunks: readonly (Uint8Array | Error)[], size: number): void {
    this.#machine(id).files.set(path, { chunks, size, mode: 0o644 });
  }

  guest(id: SandboxId): TestGuest {
    const known = this.#guests.get(id);
    if (known !== undefined) return known;
    const guest = new TestGuest({
      machine: () => this.#machine(id),
      onExec: (command) => this.onExec(command),
      onSync: (signal) => this.onSync(id, signal),
      now: () => this.now(),
      ...{ running: this.running, changes: this.changes, brokenUploads: this.brokenUploads, opened: this.opened },
    });
    this.#guests.set(id, guest);
    return guest;
  }

  /** The processes behind the sessions of a sandbox. */
  sessions(id: SandboxId): TestSessions {
    return this.guest(id).processes;
  }

  killAll(): void {
    for (const child of this.running) child.kill("SIGKILL");
  }

  /** Breaks the lines to the guest, as when its agent restarts. */
  loseLines(id: SandboxId): void {
    this.#guests.get(id)?.processes.loseLine();
  }

  setNetworkPolicy: Worker["setNetworkPolicy"] = async (id, policy) => {
    this.#machine(id);
    await this.onSetNetworkPolicy(id, policy);
    this.policies.set(id, policy);
  };

  setSecrets: Worker["setSecrets"] = async (id, secrets) => {
    const machine = this.#machine(id);
    await this.onSetSecrets(id);
    machine.request = { ...machine.request, secrets };
  };

  setEnvironment: Worker["setEnvironment"] = async (id, envs) => {
    await Promise.resolve();
    const machine = this.#machine(id);
    machine.request = { ...machine.request, envs };
  };

  networkRefusals: Worker["networkRefusals"] = async (id) => {
    await Promise.resolve();
    this.#machine(id);
    return this.refusals;
  };

  readConsole: Worker["readConsole"] = async (id) => {
    await Promise.resolve();
    this.#machine(id);
    return "the console\n";
  };

  readyMachines: Worker["readyMachines"] = async () => {
    await Promise.resolve();
    const counts = { wanted: 2, ready: 1 };
    return { ...counts, templates: [{ image: "default", memoryMib: 1024, vcpus: 1, ...counts }] };
  };

  #machine(id: SandboxId): TestMachine {
    const machine = this.host.machine(id);
    if (machine.running) return machine;
    throw new SandboxError("unavailable", `the machine of sandbox ${id} has ended`);
  }
}
