import type { GuestClient } from "#guest/guest-client.ts";
import type { Machine } from "#machine/machine.ts";
import type { SandboxEnd, StartSandbox } from "@opensandbox/wire/worker/worker.ts";

/** A sandbox that runs here. Disposing it ends the machine and removes all that was made for it. */
export class LiveSandbox implements AsyncDisposable {
  readonly request: StartSandbox;
  readonly machine: Machine;
  readonly guest: GuestClient;
  /** Settles when the machine no longer runs; never rejects. */
  readonly ended: Promise<SandboxEnd>;
  readonly #owned: AsyncDisposableStack;
  #disposing: Promise<void> | undefined;

  constructor(request: StartSandbox, machine: Machine, guest: GuestClient, owned: AsyncDisposableStack) {
    this.request = request;
    this.machine = machine;
    this.guest = guest;
    this.#owned = owned;
    this.ended = machine.exited.then(({ reason, detail }) =>
      reason === "killed"
        ? { reason: "stopped", detail: "" }
        : { reason: "exited", detail: `the machine ${reason}${detail === "" ? "" : `: ${detail}`}` },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposing ??= this.#owned.disposeAsync();
    await this.#disposing;
  }
}
