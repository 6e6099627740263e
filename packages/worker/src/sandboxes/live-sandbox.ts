import type { SandboxEnd, StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import type { LiveMachine } from "./live-machine.ts";

/** A sandbox that is here: with a machine that runs, or that has ended and left its disks. Disposing it removes all. */
export class LiveSandbox implements AsyncDisposable {
  /** As it was asked for, with what has been changed since. */
  request: StartSandbox;
  readonly live: LiveMachine;
  #end = Promise.withResolvers<SandboxEnd>();

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
    void this.live.machine.exited.then(({ reason, detail }) => {
      const told = `the machine ${reason}${detail === "" ? "" : `: ${detail}`}`;
      end.resolve(reason === "killed" ? { reason: "stopped", detail: "" } : { reason: "exited", detail: told });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.live[Symbol.asyncDispose]();
  }
}
