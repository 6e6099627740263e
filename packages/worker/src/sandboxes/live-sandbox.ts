import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxEnd, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import type { LiveMachine } from "#machine/live-machine.ts";

const ends = { panicked: "reset", shutdown: "exited", died: "exited" } as const;

/** A sandbox that is here: with a machine that runs, or that has ended and left its disks. Disposing it removes all. */
export class LiveSandbox implements AsyncDisposable {
  /** As it was asked for, with what has been changed since. */
  request: StartSandbox;
  readonly live: LiveMachine;
  #end = Promise.withResolvers<SandboxEnd>();
  #operation: { readonly state: string; readonly done: Promise<unknown> } | undefined;

  constructor(request: StartSandbox, live: LiveMachine) {
    this.request = request;
    this.live = live;
    if (live.hasProcess) this.watch();
    else this.#end.resolve({ reason: "exited", detail: "the machine ended while no worker was there" });
  }

  /** Settles when the machine ends, by itself or because it was asked to; never rejects. */
  get ended(): Promise<SandboxEnd> {
    return this.#end.promise;
  }

  /** A new machine runs: its end is what counts from now on. */
  watch(): void {
    const end = Promise.withResolvers<SandboxEnd>();
    this.#end = end;
    void this.live.vm.exited.then(({ reason, detail }) => {
      const told = `the machine ${reason}${detail === "" ? "" : `: ${detail}`}`;
      end.resolve(reason === "killed" ? { reason: "stopped", detail: "" } : { reason: ends[reason], detail: told });
    });
  }

  /** Whether something is being done that concerns the machine as a whole. */
  get busy(): boolean {
    return this.#operation !== undefined;
  }

  /** Does what concerns the machine as a whole, one at a time. @throws `wrong_state` while something else is being done */
  async exclusively<Result>(state: string, work: () => Promise<Result>): Promise<Result> {
    if (this.#operation !== undefined) {
      const present = this.#operation.state;
      throw new SandboxError("wrong_state", `${this.request.id} is ${present} at the moment`, {
        ...{ resource: "sandbox", state: present, allowed: [] },
      });
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
    // Without a process what is being done comes to its end, and then it needs no files any more.
    await this.live.stop();
    await this.#operation?.done.catch(() => undefined);
    await this.live[Symbol.asyncDispose]();
  }
}
