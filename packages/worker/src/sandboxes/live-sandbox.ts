import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxEnd, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import type { Cgroup } from "#host/cgroups/cgroups.ts";
import type { LiveMachine } from "#machine/live-machine.ts";

const endReasons = { panicked: "reset", shutdown: "exited", died: "exited" } as const;

const outOfMemory = "the kernel killed it because it used more of the host's memory than its cgroup allows";

/** Whether the kernel has killed the cgroup's process. False where the cgroup is gone: then the worker ended the machine. */
async function exceededMemory(cgroup: Cgroup | undefined): Promise<boolean> {
  const usage = await cgroup?.usage().catch(() => undefined);
  return (usage?.oomKills ?? 0) > 0;
}

/** A sandbox on this worker. Its machine runs, or has ended and left its disks. Disposing it removes everything. */
export class LiveSandbox implements AsyncDisposable {
  /** The request that started the sandbox, with later changes applied. */
  request: StartSandbox;
  readonly live: LiveMachine;
  #end = Promise.withResolvers<SandboxEnd>();
  #operation: { readonly state: string; readonly done: Promise<unknown> } | undefined;

  constructor(request: StartSandbox, live: LiveMachine) {
    this.request = request;
    this.live = live;
    if (live.hasProcess) this.watch();
    else this.#end.resolve({ reason: "exited", detail: "the machine ended while no worker was running" });
  }

  /** Settles when the machine ends, by itself or on request; never rejects. */
  get ended(): Promise<SandboxEnd> {
    return this.#end.promise;
  }

  /** Watches the machine's new process: from now on {@link ended} reports its end. */
  watch(): void {
    const end = Promise.withResolvers<SandboxEnd>();
    this.#end = end;
    const { vm, cgroup } = this.live;
    void vm.exited.then(async ({ reason, detail }) => {
      if (reason === "killed") {
        end.resolve({ reason: "stopped", detail: "" });
      } else {
        const cause = reason === "died" && (await exceededMemory(cgroup)) ? outOfMemory : detail;
        const text = `the machine ${reason}${cause === "" ? "" : `: ${cause}`}`;
        end.resolve({ reason: endReasons[reason], detail: text });
      }
    });
  }

  /** Whether an operation on the machine as a whole is in progress. */
  get busy(): boolean {
    return this.#operation !== undefined;
  }

  /**
   * Runs an operation on the machine as a whole, one at a time. A control plane's gate already orders its own operations;
   * this is the worker's invariant against a second control plane, or one that restarted while its operation went on.
   * Such a caller is refused rather than queued, because it decided on a state that the present operation changes.
   * @throws `wrong_state` while another operation is in progress
   */
  async exclusively<Result>(state: string, work: () => Promise<Result>): Promise<Result> {
    if (this.#operation !== undefined) {
      const present = this.#operation.state;
      throw new SandboxError(
        "wrong_state",
        `${this.request.id} is ${present}; try again when that operation has ended`,
        {
          ...{ resource: "sandbox", state: present, allowed: [] },
        },
      );
    }
    const done = work();
    this.#operation = { state, done };
    try {
      return await done;
    } finally {
      this.#operation = undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Without a process the present operation fails, and afterwards it needs no files.
    await this.live.stop();
    await this.#operation?.done.catch(() => undefined);
    await this.live[Symbol.asyncDispose]();
  }
}
