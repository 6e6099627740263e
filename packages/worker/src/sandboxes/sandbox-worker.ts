import { guestFiles } from "#guest/guest-files.ts";
import { guestPorts } from "#guest/guest-ports.ts";
import { guestSessions } from "#guest/guest-sessions.ts";
import type { GuestClient } from "#guest/guest-client.ts";
import { alignClock } from "#guest/align-clock.ts";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import type { CapturedSnapshot, MachineUse, Worker, WorkerDescription } from "@opensandbox/wire/worker/worker.ts";
import type { Adopted } from "./adopt-machines.ts";
import { captureSandbox, hibernateSandbox } from "./capture-sandbox.ts";
import type { Host } from "#machine/host.ts";
import type { RemoteSnapshots } from "#remote-snapshots/remote-snapshots.ts";
import { Generations } from "./generations.ts";
import type { LiveSandbox } from "./live-sandbox.ts";
import { journalMachine } from "#machine/journal.ts";
import { resumeAfterCapture } from "#machine/capture-machine.ts";
import { mergeLayers } from "#machine/merge-layers.ts";
import { allocatedBytes } from "#machine/limits/allocated-bytes.ts";
import { EndedUse } from "#machine/limits/ended-use.ts";
import { orNoRoom } from "./no-room.ts";
import { powerCycleSandbox, rebootSandbox } from "./reboot-sandbox.ts";
import { scaleSandbox } from "./scale-sandbox.ts";
import { setEnvironment } from "./set-environment.ts";
import { setSecrets } from "./set-secrets.ts";
import { setNetworkPolicy } from "./set-network-policy.ts";
import { type Sources, startSandbox } from "./start-sandbox.ts";

/** Deadline of the removal of a stored snapshot, which is one request and its repetitions. */
const removeStoredMs = 120_000;

/** The worker's operations on its sandboxes. Disposing it stops all of them, unless it has released them. */
export class SandboxWorker implements Worker, AsyncDisposable {
  readonly id: string;
  readonly description: WorkerDescription;
  readonly #host: Host;
  readonly #sources: Sources;
  readonly #here = new Map<SandboxId, LiveSandbox>();
  readonly #starting = new Map<SandboxId, Promise<LiveSandbox>>();
  readonly #generations = new Generations();
  readonly #endedUse = new EndedUse();
  #released = false;

  constructor(host: Host, sources: Sources, adopted: readonly Adopted[]) {
    this.id = host.workerId;
    this.#host = host;
    this.#sources = sources;
    this.description = host.description;
    for (const { sandbox } of adopted) {
      const { id, generation } = sandbox.request;
      this.#generations.start(id, generation);
      this.#here.set(id, sandbox);
    }
  }

  startSandbox: Worker["startSandbox"] = async (request, onProgress, signal) => {
    const { id } = request;
    if (this.#here.has(id) || this.#starting.has(id)) {
      throw new SandboxError("already_exists", `${id} runs on this worker already`, { resource: "sandbox", id });
    }
    this.#generations.start(id, request.generation);
    using _ = this.#sources.idle.markBusy();
    const started = orNoRoom(this.#host.dataDirectory, () =>
      startSandbox(request, this.#host, this.#sources, onProgress, signal),
    );
    const sandbox = started.then((result) => result.sandbox);
    this.#starting.set(id, sandbox);
    try {
      this.#here.set(id, await sandbox);
    } finally {
      this.#starting.delete(id);
    }
    const { sandbox: __, ...result } = await started;
    return result;
  };

  stopSandbox: Worker["stopSandbox"] = async (id) => {
    // Waits for a start in progress; its caller ends it by its signal.
    const sandbox = (await this.#starting.get(id)?.catch(() => undefined)) ?? this.#here.get(id);
    if (sandbox === undefined) return;
    await sandbox[Symbol.asyncDispose]();
    await this.#remove(sandbox);
  };

  // oxlint-disable-next-line typescript/require-await -- the interface is that of a worker on another host, too
  listSandboxes: Worker["listSandboxes"] = async () =>
    [...this.#here.values()].map(({ request: { id, generation, memoryMib, secrets }, live }) => ({
      ...{ id, generation, memoryMib },
      running: live.hasProcess,
      ...(secrets !== undefined && secrets.authority === undefined ? { lacksSecrets: true as const } : {}),
    }));

  waitForEnd: Worker["waitForEnd"] = async (id, signal) => await orAborted(this.#sandbox(id).ended, signal);

  /** Leaves the machines running, for the next worker to adopt. */
  async release(): Promise<void> {
    this.#released = true;
    await Promise.all([...this.#here.values()].map(({ live }) => live.release()));
    this.#here.clear();
  }

  /** Pauses every machine. Repeating it is harmless. */
  async pauseAll(): Promise<void> {
    await this.#forAll("cannot pause a machine", ({ live }) => live.vm.pause());
  }

  /** Resumes every machine. One whose capture is under way is left to it. */
  async resumeAll(): Promise<void> {
    await this.#forAll("cannot resume a machine", async ({ live, busy }) => {
      if (busy) return;
      // One that was adopted paused may be frozen by a capture of the earlier worker.
      await resumeAfterCapture(live);
      void alignClock(live, this.#host);
    });
  }

  captureSandbox: Worker["captureSandbox"] = async (id, request, signal) => {
    const sandbox = this.#sandbox(id);
    return await orNoRoom(this.#host.dataDirectory, () =>
      sandbox.exclusively("being captured", () => captureSandbox(sandbox, request, this.#host, signal)),
    );
  };

  hibernateSandbox: Worker["hibernateSandbox"] = async (id, snapshotId, signal) => {
    const sandbox = this.#sandbox(id);
    const hibernate = async (): Promise<CapturedSnapshot> => {
      const captured = await hibernateSandbox(sandbox, snapshotId, this.#host, signal);
      await this.#remove(sandbox);
      return captured;
    };
    return await orNoRoom(this.#host.dataDirectory, () => sandbox.exclusively("hibernating", hibernate));
  };

  findSnapshot: Worker["findSnapshot"] = async (snapshotId) => {
    const found = await this.#host.snapshots.find(snapshotId);
    return found === undefined ? undefined : { sizeBytes: found.manifest.ownBytes };
  };

  removeSnapshot: Worker["removeSnapshot"] = async (snapshotId) => {
    await this.#host.snapshots.remove(snapshotId);
    // Layers that a machine shared only with the snapshot are its own now.
    for (const sandbox of this.#here.values()) {
      const { live } = sandbox;
      if (!sandbox.busy) mergeLayers(live, () => journalMachine(live, sandbox.request, this.#host), this.#host);
    }
  };

  uploadSnapshot: Worker["uploadSnapshot"] = async (snapshotId, signal) => {
    await this.#remote().upload(snapshotId, signal);
  };

  removeStoredSnapshot: Worker["removeStoredSnapshot"] = async (snapshotId) => {
    await this.#remote().remove(snapshotId, AbortSignal.timeout(removeStoredMs));
  };

  sweepStore: Worker["sweepStore"] = async (signal) => await this.#remote().sweep(signal);

  measureDisk: Worker["measureDisk"] = async ({ sandboxes, snapshots }) => {
    const machines = sandboxes.flatMap((id) => this.#here.get(id)?.live.directory.path ?? []);
    const stored = snapshots.map((id) => this.#host.snapshots.pathOf(id));
    return await allocatedBytes([...machines, ...stored], { except: this.#host.templatesDirectory });
  };

  measureUse: Worker["measureUse"] = async (counted) => {
    const processes = new Set(counted);
    this.#endedUse.forget(processes);
    const measure = async ({ request, live }: LiveSandbox): Promise<readonly MachineUse[]> => {
      live.use.forget(processes);
      try {
        return (await live.use.read()).map((use) => ({ sandboxId: request.id, ...use }));
      } catch (error) {
        // Its cgroup or its network has just gone, and the end of the machine counts it.
        const fields = { sandbox: request.id, ...describeError(error) };
        this.#host.log("warn", "cannot measure what a machine has used; the next round tries again", fields);
        return [];
      }
    };
    const live = await Promise.all([...this.#here.values()].map(measure));
    return [...this.#endedUse.list, ...live.flat()];
  };

  rebootSandbox: Worker["rebootSandbox"] = async (id, signal) => {
    const sandbox = this.#sandbox(id);
    await sandbox.exclusively("restarting", () => rebootSandbox(sandbox, this.#host, signal));
  };

  powerCycleSandbox: Worker["powerCycleSandbox"] = async (id, signal) => {
    const sandbox = this.#sandbox(id);
    await sandbox.exclusively("restarting", () => powerCycleSandbox(sandbox, this.#host, signal));
  };

  scaleSandbox: Worker["scaleSandbox"] = async (id, size, signal) => {
    const sandbox = this.#sandbox(id);
    return await sandbox.exclusively("being resized", () =>
      scaleSandbox(sandbox, size, this.#host, this.#sources.ready, signal),
    );
  };

  guest: Worker["guest"] = (id) => {
    const connected = (): GuestClient => this.#sandbox(id).live.guest;
    return { sessions: guestSessions(connected), files: guestFiles(connected), ports: guestPorts(connected) };
  };

  guestRequests: Worker["guestRequests"] = (signal) => this.#host.guestRequests.listen(signal);

  // oxlint-disable-next-line typescript/require-await -- the interface is that of a worker on another host, too
  answerGuest: Worker["answerGuest"] = async (requestId, answer) => this.#host.guestRequests.answer(requestId, answer);

  setNetworkPolicy: Worker["setNetworkPolicy"] = async (id, policy) => {
    await setNetworkPolicy(this.#sandbox(id), policy, this.#host);
  };

  // oxlint-disable-next-line typescript/require-await -- the interface is that of a worker on another host, too
  setSecrets: Worker["setSecrets"] = async (id, secrets) => setSecrets(this.#sandbox(id), secrets);

  setEnvironment: Worker["setEnvironment"] = async (id, envs) => {
    await setEnvironment(this.#sandbox(id), envs, this.#host);
  };

  networkRefusals: Worker["networkRefusals"] = async (id) =>
    await Promise.resolve(this.#sandbox(id).live.sandboxNetwork?.refusals() ?? []);

  readConsole: Worker["readConsole"] = async (id) => await this.#sandbox(id).live.vm.console();

  // oxlint-disable-next-line typescript/require-await -- the interface is that of a worker on another host, too
  readyMachines: Worker["readyMachines"] = async () => this.#sources.ready.state;

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#released) return;
    const ids = [...this.#here.keys(), ...this.#starting.keys()];
    const ends = await Promise.allSettled(ids.map((id) => this.stopSandbox(id)));
    const failures = ends.filter((end) => end.status === "rejected").map((end) => end.reason as unknown);
    if (failures.length > 0) throw new AggregateError(failures, "cannot stop every sandbox");
  }

  async #forAll(failure: string, run: (sandbox: LiveSandbox) => Promise<void>): Promise<void> {
    const machines = [...this.#here.values()].filter(({ live }) => live.hasProcess);
    await Promise.all(
      machines.map((sandbox) =>
        run(sandbox).catch((error: unknown) =>
          this.#host.log("error", failure, { sandbox: sandbox.request.id, ...describeError(error) }),
        ),
      ),
    );
  }

  /** The machine of the sandbox has ended. */
  async #remove({ request: { id }, live }: LiveSandbox): Promise<void> {
    this.#here.delete(id);
    this.#endedUse.add(id, await live.use.close());
  }

  #remote(): RemoteSnapshots {
    if (this.#sources.remote !== undefined) return this.#sources.remote;
    throw new SandboxError("not_supported", "this worker has no object store: set OPENSANDBOX_OBJECT_STORE");
  }

  #sandbox(id: SandboxId): LiveSandbox {
    const sandbox = this.#here.get(id);
    if (sandbox === undefined) {
      throw new SandboxError("not_found", `${id} does not run on this worker`, { resource: "sandbox", id });
    }
    return sandbox;
  }
}
